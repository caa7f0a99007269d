# frozen_string_literal: true

require "sidekiq"

# Notes its number in the list `ran`. A job that shall fail does so the first time.
class Job
  include Sidekiq::Job

  sidekiq_options retry: 3

  def perform(number, fails)
    Sidekiq.redis do |r|
      raise "planned" if fails && r.set("failed:#{number}", 1, nx: true)

      r.rpush("ran", number)
    end
  end
end

# frozen_string_literal: true

require "sidekiq"

# Takes a moment, then notes its number in a file, which no failover touches.
class SlowJob
  include Sidekiq::Job

  NOTES = "ran"

  def self.ran
    File.exist?(NOTES) ? File.readlines(NOTES).map(&:to_i) : []
  end

  def perform(number)
    sleep 0.02
    File.open(NOTES, "a") { |file| file.syswrite("#{number}\n") }
  end
end

# frozen_string_literal: true

# What the worker process loads.

require "sidekiq"
require_relative "sidekiq_job"

Sidekiq.configure_server do |config|
  config.redis = { url: ENV.fetch("REDIS_URL"), size: 15, pool_timeout: 30 }
end

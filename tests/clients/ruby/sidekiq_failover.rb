# frozen_string_literal: true

# Sidekiq while the primary changes: sidekiq_failover.rb steady|still HOST PORT. It pushes JOBS jobs and sets the key `pushed`.
# `steady` goes on pushing until the key `stop` exists. The program prints which jobs did not run, or ran more than once.

require_relative "transcript"
require "sidekiq"

require_relative "sidekiq_slow_job"

JOBS = 100
DEADLINE = 60
URL = "redis://#{HOST}:#{PORT}"

Sidekiq.configure_client { |config| config.redis = { url: URL, size: 2, pool_timeout: 30, network_timeout: 30 } }

pushed = []
push = lambda do
  number = pushed.size
  SlowJob.perform_async(number)
  pushed << number
rescue StandardError => e
  say "error", e
end

worker = spawn(
  { "REDIS_URL" => URL }, RbConfig.ruby, "-W0", "/usr/bin/sidekiq", "-c", "5", "-t", "5",
  "-r", File.join(__dir__, "sidekiq_slow_worker.rb"), out: :err
)
redis = connect
JOBS.times { push.call }
redis.set("pushed", pushed.size)
if ARGV[-3] == "steady"
  until redis.exists?("stop")
    push.call
    sleep 0.01
  end
end

deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + DEADLINE
sleep 0.02 until (pushed - SlowJob.ran).empty? || Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline
Process.kill("TERM", worker)
Process.wait(worker)
ran = SlowJob.ran
say "pushed", pushed.size
say "missing", pushed - ran
say "doubled", ran.tally.select { |_, times| times > 1 }.keys

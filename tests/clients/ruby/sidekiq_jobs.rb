# frozen_string_literal: true

# Sidekiq: a worker process runs 200 jobs, some of them at a later time or again after a failure. Each job must run once.
# The worker's own scheduler looks for due jobs after 10 to 15 seconds. This program does its work at once, with its code.

require_relative "transcript"
require "sidekiq"
require "sidekiq/api"
require "sidekiq/scheduled"

require_relative "sidekiq_job"

JOBS = 200
FAILING = 5
LATER = 10

Sidekiq.configure_client { |config| config.redis = { url: "redis://#{HOST}:#{PORT}/1", size: 5, pool_timeout: 30 } }
Sidekiq.strict_args!

COMMAND = [RbConfig.ruby, "-W0", "/usr/bin/sidekiq", "-c", "5", "-q", "critical,2", "-q", "default", "-t", "5"].freeze

def ran
  Sidekiq.redis { |r| r.lrange("ran", 0, -1).map(&:to_i) }
end

def wait_until(what)
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 60
  until yield
    raise "in vain: #{what}" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline

    sleep 0.02
  end
end

say "ids", (0...FAILING).map { |n| Job.perform_async(n, true).size }.uniq
say "one by one", (FAILING...100).map { |n| Job.perform_async(n, false).size }.uniq
say "in bulk", Job.perform_bulk((100...(JOBS - LATER)).map { |n| [n, false] }).size
say "to another queue", (JOBS - LATER...JOBS).map { |n| Job.set(queue: "critical").perform_in(0.1, n, false).size }.uniq
say "queues", Sidekiq::Queue.all.map { |queue| [queue.name, queue.size] }
say "scheduled", Sidekiq::ScheduledSet.new.size

environment = { "REDIS_URL" => "redis://#{HOST}:#{PORT}/1" }
worker = spawn(environment, *COMMAND, "-r", File.join(__dir__, "sidekiq_worker.rb"), out: :err)
wait_until("the jobs that neither wait nor fail") { ran.size >= JOBS - LATER - FAILING }
wait_until("the failed jobs to be known") { Sidekiq::RetrySet.new.size == FAILING }
say "failed", Sidekiq::RetrySet.new.map { |job| [job.args, job["error_message"], job["retry_count"]] }.sort_by { |args, *| args.first }
Sidekiq::RetrySet.new.retry_all
wait_until("the later jobs to be due") { Sidekiq::ScheduledSet.new.all? { |job| job.at <= Time.now } }
Sidekiq::Scheduled::Enq.new.enqueue_jobs
wait_until("every job to run") { ran.size >= JOBS }
wait_until("the worker to report") { Sidekiq::ProcessSet.new.size == 1 }
say "processes", Sidekiq::ProcessSet.new.map { |process| [process["queues"].uniq.sort, process["concurrency"]] }
Process.kill("TERM", worker)
Process.wait(worker)
say "worker ended", $?.exitstatus
say "each once", ran.sort == (0...JOBS).to_a
stats = Sidekiq::Stats.new
say "stats", stats.processed, stats.failed, stats.enqueued, stats.retry_size, stats.scheduled_size, stats.dead_size
say "processes left", Sidekiq::ProcessSet.new(false).size

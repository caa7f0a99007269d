# frozen_string_literal: true

# Where to connect, and how to print: the last two arguments are HOST PORT.

require "redis"
require "timeout"

HOST = ARGV[-2]
PORT = Integer(ARGV[-1])

$stdout.sync = true
Thread.report_on_exception = true
Thread.abort_on_exception = true

# A run that hangs is a failed run.
Thread.new do
  sleep 100
  warn "the run takes too long"
  Thread.list.each { |thread| warn thread.inspect, thread.backtrace }
  exit! 1
end

def connect(**options)
  Redis.new(host: HOST, port: PORT, timeout: 30, reconnect_attempts: 0, **options)
end

# Returns the number of the database to use. Older servers have one database in a cluster, used in place of each other one.
def database(number)
  ENV.key?("ONE_DATABASE") ? 0 : number
end

# Prints one line of the transcript.
def say(label, *values)
  puts "#{label} #{values.map { |value| shown(value) }.join(" ")}"
end

# Formats a value as text.
def shown(value)
  case value
  when Exception then "#{value.class}: #{value.message}"
  when Array then "[#{value.map { |item| shown(item) }.join(", ")}]"
  when Hash then "{#{value.map { |key, item| "#{shown(key)}: #{shown(item)}" }.sort.join(", ")}}"
  else value.inspect
  end
end

# Returns what the block returns, or the error that it raises.
def attempt
  yield
rescue StandardError => e
  e
end

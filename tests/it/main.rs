//! One integration test binary: real servers, real Sentinels, the real `respgate`, real clients.
//!
//! `support` starts and stops processes; every other module is one area of behaviour. Most tests run the same
//! bytes against the server itself and through respgate, and compare what comes back.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a failed expectation is the test's verdict, in helpers as in tests"
)]

#[macro_use]
mod support;

mod admin;
mod alerts;
mod auth;
mod bad_input;
mod blocking;
mod churn;
mod client_commands;
mod clients;
mod cluster;
mod command_facts;
mod commands;
mod control;
mod credentials;
mod database_rules;
mod descriptors;
mod diagnostics;
mod discovery;
mod doctor;
mod documents;
mod drain;
mod failover;
mod fairness;
mod fanin;
mod files;
mod greeting;
mod guessing;
mod handover;
mod handshake;
mod hold;
mod holes;
mod identity;
mod large_replies;
mod latency;
mod layers;
mod leases;
mod limits;
mod listeners;
mod logs;
mod page;
mod permissions;
mod maintenance;
mod managed;
mod memory;
mod modules;
mod pipelines;
mod policy;
mod proxy_protocol;
mod pubsub;
mod tenants;
mod upgrade;
mod timeouts;
mod reauth;
mod reload;
mod replica_reads;
mod replication;
mod repointed;
mod rotation;
mod scripts;
mod shared_rates;
mod stalls;
mod status;
mod tls;
mod tracking;
mod transactions;
mod user_logins;
mod watch;
mod users;

//! respgate: a Sentinel-aware proxy for Valkey and Redis.
//!
//! Read the modules in this order: [`config`] says what a user can ask for, [`app`] builds it, a
//! [`listener`] accepts a client and hands it to a [`worker`], whose [`session`]s classify commands with
//! [`command`] and send them through [`upstream`] to the primary that [`discovery`] found. What flows between
//! `discovery` and `upstream` is a [`topology::Topology`].
//!
//! # Invariants
//!
//! - Imports go down the list below only; `upstream` and `discovery` never import each other.
//! - A session and every upstream connection it uses live on one thread: the data path has no lock.
//! - What is forwarded is canonical RESP, checked byte for byte.
//! - A written request keeps its place in its connection's queue until its reply, even when the client left.
//! - A command is sent twice only if it provably did not run, or is read-only.
//! - Every queue is bounded in bytes; dropping a session at any await is safe.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests read files that they wrote"))]

pub mod admin;
pub mod admin_client;
pub mod app;
pub mod certificates;
pub mod cli;
pub mod clients;
pub mod cluster;
pub mod command;
pub mod config;
pub mod ctl;
pub mod descriptors;
pub mod discovery;
pub mod doctor;
pub mod drain;
pub mod files;
pub mod heartbeat;
pub mod hint;
pub mod latency;
pub mod listener;
pub mod logs;
pub mod manual;
pub mod metrics;
pub mod net;
pub mod operator;
pub mod poll_meter;
pub mod reload;
pub mod replica;
pub mod resp;
pub mod rotation;
pub mod secret;
pub mod session;
pub mod shutdown;
pub mod status;
pub mod systemd;
pub mod tenant;
pub mod timeline;
pub mod topology;
pub mod upgrade;
pub mod upstream;
pub mod worker;

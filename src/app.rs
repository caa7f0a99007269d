//! The composition root: turns a checked configuration into bound sockets, workers and discovery,
//! runs them, and drains them.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::admin::control::Control;
use crate::admin::{self, Admin, Sources};
use crate::certificates::Certificates;
use crate::clients::directory::Directory;
use crate::config::flags::Flags;
use crate::config::{self, Config, Upstream};
use crate::descriptors::{Capacity, Demand};
use crate::discovery::config::DiscoveryConfig;
use crate::discovery::replicas;
use crate::drain::{self, ClientCounts};
use crate::heartbeat::Heartbeat;
use crate::listener::set::Listeners;
use crate::logs::{LogFilter, LogLimit};
use crate::net::budget::Budget;
use crate::net::listening::OpenSockets;
use crate::net::tls::slot::Legs;
use crate::operator::{Operators, TargetContext};
use crate::reload::upstreams::Upstreams;
use crate::reload::{self, ReloadTargets, plan};
use crate::rotation::source::ControlToken;
use crate::rotation::{self, Source, Tallies, Tally};
use crate::secret::Secret;
use crate::shutdown::{LeaveEnd, Shutdown, Signals, drain_sessions};
use crate::systemd::{self, Notifier};
use crate::tenant::Tenants;
use crate::tenant::store::Stores;
use crate::tenant::users::Users;
use crate::tenant::users::accounts::Accounts;
use crate::topology::Topology;
use crate::upgrade::predecessor;
use crate::upgrade::requests::Upgrader;
use crate::upgrade::successor::UpgradePlan;
use crate::worker::{Plan, Worker};

/// Exit code when the operating system fails respgate, for example when an address is in use:
/// `EX_OSERR` of sysexits.
pub const OS_ERROR: u8 = 71;

/// Runs until SIGTERM or SIGINT, then until the running commands have finished or the drain
/// deadline has passed. `logs` is the limit that every log line passes, and `filter` changes the
/// level of the log.
pub fn run(config: Config, flags: &Flags, logs: LogLimit, filter: LogFilter) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(serve(config, flags, logs, filter));
        // A file read or a name look-up that hangs must not keep the process alive.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(OS_ERROR)
        }
    }
}

async fn serve(mut config: Config, flags: &Flags, logs: LogLimit, filter: LogFilter) -> io::Result<()> {
    let notifier = Notifier::from_env();
    let (prompter, prompts) = rotation::prompts();
    reload::on_hangup(prompter.clone(), notifier.clone())?;
    let clients = share_descriptors(&mut config)?;
    tokio::spawn(logs.clone().report());
    // Every socket is bound before any client is served, so that an error shows at once.
    let (mut inherited, predecessor) = predecessor::inherit()?;
    let capacity = Capacity::new(clients);
    let sockets = OpenSockets::default();
    let mut listeners = Listeners::new(capacity.clone(), sockets.clone());
    let prepared = listeners.prepare(&config.listeners, &mut inherited).map_err(io::Error::other)?;
    let admin = config.admin.map(|address| admin::bind(address, &mut inherited)).transpose()?;
    let path = config.control.socket.as_deref();
    let control_socket = path.map(|path| admin::bind_control(path, &mut inherited)).transpose()?;
    let unused = inherited.into_unused();
    admin.iter().for_each(|socket| sockets.add(admin::SOCKET_NAME, socket));
    control_socket.iter().for_each(|socket| sockets.add(admin::CONTROL_SOCKET_NAME, socket));

    let (reloads, legs) = (Tallies::default(), Legs::default());
    let certificates = Certificates::follow(&config, &reloads, &legs);
    let has_admin = admin.is_some() || control_socket.is_some();
    let ctx = TargetContext { interval: config.reload_interval, tallies: reloads.clone(), legs };
    let mut upstreams = Upstreams::new(config.workers, has_admin, ctx.clone());
    upstreams.follow(&config.upstreams, !config.tenants.is_empty());
    upstreams.publish();
    let mut accounts = Accounts::new(config.reload_interval, reloads.clone());
    let users = Users::new(accounts.follow(&config.users, &upstreams.names()), config.workers)?;
    let tenants = Tenants::new(&config.tenants, &listeners.tenants(&prepared), users);
    let (directory, queries) = Directory::new(config.workers);
    let plan = Plan {
        listeners: plan::listeners(|name| upstreams.number(name), &prepared, &certificates),
        tenants,
        upstreams: upstreams.plans(),
        budget: Budget::new(config.max_buffered, config.workers),
        directory: directory.clone(),
        latency: config.latency,
    };
    let stores = Stores::default();
    stores.follow(&plan.upstreams, &plan.tenants.all);
    let mut workers = Vec::with_capacity(config.workers);
    for (number, queries) in queries.into_iter().enumerate() {
        let (worker, _thread) = Worker::start(number, plan.clone(), queries)?;
        workers.push(worker);
    }

    let topologies = upstreams.topologies();
    let counts: Vec<ClientCounts> = Listeners::client_counts(&prepared);
    let (switch, draining) = drain::switch();
    let former = match predecessor {
        Some(predecessor) => predecessor.take_over(&topologies, counts.clone(), draining.clone()).await,
        None => watch::channel(None).1,
    };
    // The former process no longer accepts, so nobody serves the listeners that are gone.
    unused.close();

    let budget = plan.budget;
    let tenants = watch::Sender::new(plan.tenants);
    let operators = Operators {
        upstreams: upstreams.steered(),
        workers: workers.clone(),
        tenants: tenants.subscribe(),
        ctx,
        by: "the configuration".into(),
    };
    listeners.commit(prepared, &workers, &draining);
    let listeners_ended = listeners.ended();
    let security = watch::Sender::new(plan::tls_status(&config, &listeners, &certificates));
    let listener_views = watch::Sender::new(plan::listener_views(&config, &listeners));
    let (latency, latency_seen) = watch::channel(config.latency);
    let (tenants_seen, security_seen) = (tenants.subscribe(), security.subscribe());
    let views_seen = listener_views.subscribe();
    let admin_tls = certificates.admin();
    let (views, steered) = (upstreams.views(), upstreams.steered());
    let targets = ReloadTargets {
        accounts,
        tenants,
        upstreams,
        stores: stores.clone(),
        workers: workers.clone(),
        operators: operators.clone(),
        listeners,
        certificates,
        draining: draining.clone(),
        budget: budget.clone(),
        log: filter.clone(),
        security,
        listener_views,
        latency,
        capacity: capacity.clone(),
        share_descriptors,
    };
    let configuration = reload::follow(flags.clone(), config.clone(), targets, prompts, &reloads);
    let mut signals = Signals::register()?;
    let shutdown = Arc::new(Notify::new());
    let (upgrade, requests) = mpsc::channel(1);
    if has_admin {
        let sources = Sources {
            security: security_seen,
            tenants: tenants_seen,
            stores,
            reloads: reloads.clone(),
            former,
            workers: workers.clone(),
            budget,
            listeners: views_seen,
            logs,
        };
        let control = Control {
            token: config
                .control
                .token
                .clone()
                .map(|token| follow_token("control token", token, config.reload_interval, &reloads)),
            read_token: config
                .control
                .read_token
                .clone()
                .map(|token| follow_token("read token", token, config.reload_interval, &reloads)),
            configuration: prompter,
            reloads: configuration,
            clients: directory,
            operators: operators.clone(),
            parse_target: Arc::new(config::switch::switch_target),
            log: filter,
            drain: switch.clone(),
            shutdown: shutdown.clone(),
            upgrade,
            upgrade_timeout: config.upgrade_timeout,
            shutdown_endpoint: config.control.shutdown_endpoint,
            workers: workers.clone(),
            latency: latency_seen,
        };
        let endpoint = Arc::new(Admin::new(views, sources, draining.clone(), control));
        for socket in admin.into_iter().chain(control_socket) {
            tokio::spawn(endpoint.clone().serve(socket, admin_tls.clone()));
        }
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = config.workers, "respgate has started");

    if notifier.is_supervised() {
        let (notifier, workers) = (notifier.clone(), workers.clone());
        let watchdog = systemd::watchdog();
        tokio::spawn(Heartbeat { notifier, watchdog, workers, upstreams: steered }.beat());
    }
    let ready = notifier.clone();
    tokio::spawn(async move {
        if config.ready_needs_primary {
            every_primary(topologies).await;
        }
        ready.ready();
    });

    let mut upgrader = Upgrader {
        plan: UpgradePlan::new(sockets, config.upgrade_timeout, notifier.clone()),
        counts: counts.clone(),
        draining: draining.clone(),
        requests,
    };
    let end = Shutdown {
        drained: tokio::spawn(drain_sessions(draining.clone(), workers.clone(), config.drain_timeout)),
        switch,
        draining,
        workers,
        notifier,
        delay: config.drain_delay,
        deadline: config.drain_timeout,
    };
    let is_asked = loop {
        let successor = tokio::select! {
            () = signals.next() => None,
            () = shutdown.notified() => None,
            successor = upgrader.run() => Some(successor),
        };
        let Some(successor) = successor else {
            end.announce(&mut signals).await;
            break true;
        };
        tokio::spawn(successor.accompany(counts.clone(), end.switch.clone()));
        let clients = || counts.iter().map(ClientCounts::all).sum();
        match end.leave(clients, config.upgrade_drain_timeout, &mut signals).await {
            LeaveEnd::TakenBack => {}
            ended => break ended == LeaveEnd::Asked,
        }
    };
    end.drain(listeners_ended, &mut signals, is_asked).await;
    Ok(())
}

/// Follows the file of a token. `kind` says for what the token is. Returns the newest token.
fn follow_token(
    kind: &'static str,
    token: ControlToken,
    interval: Duration,
    reloads: &Tallies,
) -> watch::Receiver<Secret> {
    let (newest, seen) = watch::channel(token.token);
    let tally = Tally::new(kind, token.path.display().to_string());
    reloads.add(tally.clone());
    let path = token.path.clone();
    let source = Source::new(vec![token.path], move || ControlToken::read(path.clone()));
    let adopt = move |token: ControlToken| {
        newest.send_replace(token.token);
    };
    tokio::spawn(rotation::follow(source, interval, tally, adopt));
    seen
}

/// Waits until every upstream has had a verified primary.
async fn every_primary(topologies: Vec<(String, watch::Receiver<Topology>)>) {
    for (_, mut topology) in topologies {
        let _ = topology.wait_for(|topology| topology.primary().is_some()).await;
    }
}

/// Raises the soft limit of open files to the hard limit, and divides the descriptors. Returns the
/// maximum number of clients of all listeners together. Lowers the limits of upstream connections
/// if they do not fit, and logs that.
///
/// # Errors
/// Returns an error if the limit is too low to serve a single client.
fn share_descriptors(config: &mut Config) -> io::Result<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let available = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
    let demand = Demand {
        workers: config.workers,
        listeners: config.listeners.len(),
        upstreams: config.upstreams.len(),
        sentinels: config.upstreams.iter().map(|upstream| sentinels(&upstream.discovery)).sum(),
        replicas: config.upstreams.iter().map(|upstream| replicas_asked(config, upstream)).sum(),
        clusters: config.upstreams.iter().filter(|upstream| is_cluster(upstream)).count(),
        clients: config.listeners.iter().map(|listener| listener.max_clients).sum(),
        connections: config
            .upstreams
            .iter()
            .map(|upstream| {
                upstream.config.max_connections
                    + upstream.config.max_shared() * config.read_replicas(upstream)
            })
            .sum(),
    };
    let shares = demand.share(available).ok_or_else(|| {
        io::Error::other(format!(
            "only {available} files may be open, and respgate keeps {} for itself; raise the limit (ulimit -n, LimitNOFILE=)",
            demand.reserve(available)
        ))
    })?;
    if shares.clients < demand.clients || shares.connections < demand.connections {
        tracing::warn!(
            available,
            clients = shares.clients,
            connections = shares.connections,
            "the limit of open files is too low for max-clients and max-connections, so respgate lowers both: raise the limit (ulimit -n, LimitNOFILE=) or lower the two keys"
        );
    }
    let count = config.upstreams.len();
    let nodes: Vec<_> = config.upstreams.iter().map(|upstream| 1 + config.read_replicas(upstream)).collect();
    for (upstream, nodes) in config.upstreams.iter_mut().zip(nodes) {
        let is_cluster = is_cluster(upstream);
        let config = &mut upstream.config;
        let (shared, leased) =
            shares.connections_of(config.max_shared(), config.max_leased, nodes, demand.connections);
        (config.max_leased, config.max_connections) = (leased, leased + shared);
        let share = shares.cluster(leased + shared * nodes, count, available, is_cluster);
        (config.max_open, config.max_open_of_discovery) = (share.workers, share.discovery);
    }
    Ok(shares.clients)
}

fn is_cluster(upstream: &Upstream) -> bool {
    matches!(upstream.discovery, DiscoveryConfig::Cluster(_))
}

/// Returns the number of Sentinels, or of a cluster's nodes, that discovery may be connected to, learned ones included.
fn sentinels(discovery: &DiscoveryConfig) -> usize {
    const LEARNT: usize = 8;
    match discovery {
        DiscoveryConfig::Fixed(_) => 0,
        DiscoveryConfig::Sentinel(sentinels) => sentinels.seeds.len() + LEARNT,
        DiscoveryConfig::Cluster(cluster) => cluster.seeds.len() + crate::discovery::cluster::MAX_ASKED,
    }
}

/// Returns the number of connections that sample replicas, those to a Sentinel included, and of those to replicas that every worker
/// has whatever its share is.
fn replicas_asked(config: &Config, upstream: &Upstream) -> usize {
    let lags = match upstream.discovery {
        DiscoveryConfig::Sentinel(_) if upstream.config.replica_sampling => replicas::MAX_REPLICAS + 1,
        _ => 0,
    };
    // The sampler for reads asks the primary and a Sentinel as well.
    let reads = match config.read_replicas(upstream) {
        0 => 0,
        replicas => replicas + 2 + replicas * config.workers,
    };
    lags + reads
}

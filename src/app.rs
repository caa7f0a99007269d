//! The composition root: turns a checked configuration into bound sockets, workers and discovery,
//! runs them, and drains them.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::admin::control::Control;
use crate::admin::{self, Admin, Sources, View};
use crate::certificates::Certificates;
use crate::clients::directory::Directory;
use crate::config::flags::Flags;
use crate::config::{self, Config, Upstream};
use crate::descriptors::{Capacity, Demand};
use crate::discovery::config::DiscoveryConfig;
use crate::discovery::replicas::{self, ReplicaSampler};
use crate::discovery::{Dialers, Logins};
use crate::drain::{self, ClientCounts};
use crate::heartbeat::Heartbeat;
use crate::listener::set::Listeners;
use crate::logs::{LogFilter, LogLimit};
use crate::net::budget::Budget;
use crate::net::connect::Dialer;
use crate::net::listening::OpenSockets;
use crate::net::tls::client::ClientTls;
use crate::net::tls::slot::Leg;
use crate::operator::{self, Operators, Reach, Steered};
use crate::reload::{self, ReloadTargets, plan};
use crate::rotation::login::Login;
use crate::rotation::source::{Account, ControlToken};
use crate::rotation::{self, Source, Tallies, Tally, credentials};
use crate::secret::Secret;
use crate::shutdown::{LeaveEnd, Shutdown, Signals, drain_sessions};
use crate::systemd::{self, Notifier};
use crate::tenant::Tenants;
use crate::tenant::store::Stores;
use crate::tenant::users::Users;
use crate::tenant::users::accounts::Accounts;
use crate::timeline::Timelines;
use crate::topology::Topology;
use crate::upgrade::predecessor;
use crate::upgrade::requests::Upgrader;
use crate::upgrade::successor::UpgradePlan;
use crate::upstream::UpstreamPlan;
use crate::upstream::config::UpstreamConfig;
use crate::upstream::connection::scripts::Scripts;
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

    let reloads = Tallies::default();
    let logins = logins(&config, &reloads);
    let certificates = Certificates::follow(&config, &reloads);
    let steered: Vec<Steered> = config
        .upstreams
        .iter()
        .zip(&logins)
        .map(|(upstream, logins)| {
            let config = &upstream.config;
            let dialers = dialers(upstream, &certificates);
            let discovery = upstream.discovery.clone();
            let reach = Reach::begin(&config.name, discovery, config.ping_interval, logins.clone(), dialers);
            operator::steer(config.clone(), upstream.target(), reach)
        })
        .collect();
    let timelines: Vec<Timelines> = config.upstreams.iter().map(|_| Timelines::default()).collect();
    let names = config.upstreams.iter().map(|upstream| upstream.config.name.as_str().into()).collect();
    let mut accounts = Accounts::new(names, config.reload_interval, reloads.clone());
    let users = Users::new(accounts.follow(&config.users), config.workers)?;
    let tenants = Tenants::new(&config.tenants, &listeners.tenants(&prepared), users);
    let upstream_names = config.upstreams.iter().map(|upstream| upstream.config.name.clone()).collect();
    let (directory, queries) = Directory::new(config.workers, upstream_names);
    let plan = Plan {
        listeners: plan::listeners(&config, &prepared, &certificates),
        tenants,
        upstreams: upstream_plans(&config, &steered, &timelines),
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

    let topologies = named_topologies(&config, &steered);
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
        upstreams: steered.clone().into(),
        workers: workers.clone(),
        tenants: tenants.subscribe(),
        reload_interval: config.reload_interval,
        by: "respgate".into(),
    };
    listeners.commit(prepared, &workers, &draining);
    let listeners_ended = listeners.ended();
    let security = watch::Sender::new(plan::tls_status(&config, &listeners, &certificates));
    let listener_views = watch::Sender::new(plan::listener_views(&config, &listeners));
    let limits: Vec<_> =
        config.upstreams.iter().map(|upstream| watch::Sender::new(plan::limits(upstream))).collect();
    let limits_seen: Vec<_> = limits.iter().map(watch::Sender::subscribe).collect();
    let (tenants_seen, security_seen) = (tenants.subscribe(), security.subscribe());
    let views_seen = listener_views.subscribe();
    let has_admin = admin.is_some() || control_socket.is_some();
    let admin_tls = certificates.admin();
    let samplers = if has_admin { replica_samplers(&config, &steered) } else { Vec::new() };
    let targets = ReloadTargets {
        accounts,
        tenants,
        upstreams: plan.upstreams,
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
        limits,
        capacity: capacity.clone(),
        share_descriptors,
    };
    let configuration = reload::follow(flags.clone(), config.clone(), targets, prompts, &reloads);
    let mut signals = Signals::register()?;
    let shutdown = Arc::new(Notify::new());
    let (upgrade, requests) = mpsc::channel(1);
    if has_admin {
        let views = config.upstreams.iter().zip(&steered).zip(&timelines).zip(&samplers).zip(limits_seen);
        let views = views.map(|((((upstream, steered), timelines), sampler), limits)| View {
            name: upstream.config.name.clone(),
            limits,
            topology: steered.topology.clone(),
            discovery: steered.discovery.clone(),
            replication: sampler.as_ref().map(|sampler| sampler.newest.clone()),
            access: steered.access.clone(),
            ordered: steered.status.clone(),
            timelines: timelines.clone(),
        });
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
            slow_log_length: config.latency.slow_length,
        };
        let endpoint = Arc::new(Admin::new(views.collect(), sources, draining.clone(), control));
        for socket in admin.into_iter().chain(control_socket) {
            tokio::spawn(endpoint.clone().serve(socket, admin_tls.clone()));
        }
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = config.workers, "respgate has started");
    for (upstream, steered) in config.upstreams.iter().zip(&steered) {
        tokio::spawn(log_when_ready(upstream.config.name.clone(), steered.topology.clone()));
    }

    if notifier.is_supervised() {
        let (notifier, workers) = (notifier.clone(), workers.clone());
        let watchdog = systemd::watchdog();
        tokio::spawn(Heartbeat { notifier, watchdog, workers, upstreams: topologies.clone() }.beat());
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
    drop(samplers);
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

/// Returns the newest results of discovery, each with the upstream's name.
fn named_topologies(config: &Config, steered: &[Steered]) -> Vec<(String, watch::Receiver<Topology>)> {
    let names = config.upstreams.iter().map(|upstream| upstream.config.name.clone());
    names.zip(steered.iter().map(|steered| steered.topology.clone())).collect()
}

/// Waits until every upstream has had a verified primary.
async fn every_primary(topologies: Vec<(String, watch::Receiver<Topology>)>) {
    for (_, mut topology) in topologies {
        let _ = topology.wait_for(|topology| topology.primary().is_some()).await;
    }
}

/// Logs once that the clients of an upstream are served.
async fn log_when_ready(upstream: String, mut topology: watch::Receiver<Topology>) {
    if let Ok(known) = topology.wait_for(|topology| topology.primary().is_some()).await {
        let address = known.primary().map(|primary| primary.address.to_string());
        tracing::info!(upstream, address, "ready: the primary is verified");
    }
}

fn dialer(config: &UpstreamConfig, tls: Option<ClientTls>) -> Dialer {
    Dialer { connect_timeout: config.connect_timeout, tls, ..Dialer::default() }
}

/// Returns what discovery dials with.
fn dialers(upstream: &Upstream, certificates: &Certificates) -> Dialers {
    Dialers {
        data: dialer(&upstream.config, certificates.client(Leg::Upstream, upstream)),
        sentinels: dialer(&upstream.config, certificates.client(Leg::Sentinel, upstream)),
    }
}

/// Starts to sample the replicas of each upstream that permits it. Dropping a sampler ends it.
fn replica_samplers(config: &Config, steered: &[Steered]) -> Vec<Option<ReplicaSampler>> {
    let upstreams = config.upstreams.iter().map(|upstream| &upstream.config).zip(steered);
    let samplers = upstreams.map(|(config, steered)| {
        config.replica_sampling.then(|| replicas::follow(&config.name, steered.sampled.clone()))
    });
    samplers.collect()
}

/// Returns the credentials with which respgate itself logs in to each upstream. A background task
/// keeps them up to date.
fn logins(config: &Config, reloads: &Tallies) -> Vec<Logins> {
    let follow = |account: &Option<Account>, what: &'static str, upstream: &str| {
        let Some(account) = account else { return Login::new(None) };
        let (login, tally) = (credentials::begin(account), Tally::new(what, format!("upstreams.{upstream}")));
        reloads.add(tally.clone());
        tokio::spawn(credentials::keep(login.clone(), account.source.clone(), config.reload_interval, tally));
        login
    };
    let logins = config.upstreams.iter().map(|upstream| {
        let name = &upstream.config.name;
        Logins {
            nodes: follow(&upstream.account, "password", name),
            sentinels: follow(&upstream.sentinel_account, "sentinel-password", name),
        }
    });
    logins.collect()
}

/// Returns the workers' plans of the upstreams, with each worker's share of the limits.
fn upstream_plans(config: &Config, steered: &[Steered], timelines: &[Timelines]) -> Vec<UpstreamPlan> {
    let upstreams = config.upstreams.iter().zip(steered).zip(timelines);
    let plans = upstreams.map(|((upstream, steered), timelines)| UpstreamPlan {
        config: plan::share(&upstream.config, config.workers),
        access: steered.access.clone(),
        topology: steered.topology.clone(),
        hints: steered.hints.clone(),
        scripts: Scripts::default(),
        fair: !config.tenants.is_empty(),
        timelines: timelines.clone(),
    });
    plans.collect()
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
        replicas: config.upstreams.iter().map(replicas_asked).sum(),
        clients: config.listeners.iter().map(|listener| listener.max_clients).sum(),
        connections: config.upstreams.iter().map(|upstream| upstream.config.max_connections).sum(),
    };
    let shares = demand.share(available).ok_or_else(|| {
        io::Error::other(format!(
            "only {available} files may be open, and respgate keeps {} for itself; raise the limit (ulimit -n, LimitNOFILE=)",
            demand.reserve()
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
    for upstream in &mut config.upstreams {
        let config = &mut upstream.config;
        let shared = config.max_connections.saturating_sub(config.max_leased);
        let (shared, leased) = shares.connections_of(shared, config.max_leased, demand.connections);
        (config.max_leased, config.max_connections) = (leased, leased + shared);
    }
    Ok(shares.clients)
}

/// Returns the number of Sentinels that discovery may be connected to, learned ones included.
fn sentinels(discovery: &DiscoveryConfig) -> usize {
    const LEARNT: usize = 8;
    match discovery {
        DiscoveryConfig::Fixed(_) => 0,
        DiscoveryConfig::Sentinel(sentinels) => sentinels.seeds.len() + LEARNT,
    }
}

/// Returns the number of connections that sample replicas at addresses of Sentinels, the one to a Sentinel included.
fn replicas_asked(upstream: &Upstream) -> usize {
    match upstream.discovery {
        DiscoveryConfig::Sentinel(_) if upstream.config.replica_sampling => replicas::MAX_REPLICAS + 1,
        _ => 0,
    }
}

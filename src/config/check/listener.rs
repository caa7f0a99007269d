//! Checks listeners and the limits of their sessions.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::address::{DEFAULT_PORT, ListenAddress};
use super::super::model::Upstream;
use super::super::report::{Place, Report, suggestion};
use super::super::schema::{ListenerDefaults, ListenerKeys, ServerTlsKeys, SessionDefaults, SessionKeys};
use super::super::setting::Setting;
use super::super::typed::{Named as Table, Overrides};
use super::super::value::Bytes;
use super::size::{LEAST_SIZE, within};
use super::{reads, tenant, tls};
use crate::listener::{Bind, ListenerConfig};
use crate::net::source_rate::SourceRateConfig;
use crate::net::tls::server::ClientCertificates;
use crate::replica::Reads;
use crate::resp::request::RequestLimits;
use crate::rotation::source::NameSource;
use crate::session::config::{AdminCommands, SessionConfig, Timeouts};
use crate::tenant::config::TenantConfig;
use crate::tenant::members::MembersConfig;
use crate::tenant::policy::acl;
use crate::tenant::users::UserConfig;
use crate::upstream::config::ClientAuth;

/// The settings from which a listener's limits are made, besides its own.
pub(super) struct Bounds<'a> {
    /// The limits in the file's `[limits]`.
    pub defaults: &'a SessionKeys,
    /// The limits in flags and environment variables.
    pub overrides: &'a Overrides,
    /// Bytes that all workers together may hold for clients.
    pub max_buffered: usize,
}

/// The upstreams, tenants and users that listeners can refer to.
pub(super) struct Named<'a> {
    /// The names of all upstreams in the configuration.
    pub names: &'a [String],
    /// The upstream that is used if a listener names none.
    pub usual: Option<&'a str>,
    /// The upstreams without an error.
    pub checked: &'a [Upstream],
    /// All tenants.
    pub tenants: &'a [TenantConfig],
    /// respgate's own users.
    pub users: &'a [UserConfig],
}

/// Checks all listeners. If the configuration has none, one listener on 127.0.0.1:6379 is added.
pub(super) fn check_all(
    mut typed: Vec<Table<ListenerKeys>>,
    flags: &ServerTlsKeys,
    bounds: &Bounds<'_>,
    named: &Named<'_>,
    admin: &Setting<SocketAddr>,
    file: Option<&Place>,
    report: &mut Report,
) -> Vec<ListenerConfig> {
    if typed.is_empty() {
        let place = file.map_or(Place::Flag("--listen"), |file| file.first_line("listeners"));
        let mut listener = Table::<ListenerKeys>::new("main", place.clone());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT));
        listener.keys.address = Setting::Given(ListenAddress::Tcp(address), place);
        typed.push(listener);
    }
    let mut taken: Vec<(ListenAddress, Place)> = match admin {
        Setting::Given(address, place) => vec![(ListenAddress::Tcp(*address), place.clone())],
        _ => Vec::new(),
    };
    let mut listeners = Vec::new();
    for listener in typed {
        if let Setting::Given(address, place) = &listener.keys.address {
            match taken.iter().find(|(other, _)| overlap(address, other)) {
                Some((_, other)) => {
                    report.error(place, format!("{address} is taken by {other}; one must move"))
                }
                None => taken.push((address.clone(), place.clone())),
            }
        }
        listeners.extend(check(listener, flags, bounds, named, report));
    }
    listeners
}

fn check(
    listener: Table<ListenerKeys>,
    flags: &ServerTlsKeys,
    bounds: &Bounds<'_>,
    named: &Named<'_>,
    report: &mut Report,
) -> Option<ListenerConfig> {
    let Table { name, place: table, keys: mut typed } = listener;
    if typed.address.is_absent() {
        report.error(
            &table.sub_key("address"),
            r#"is missing; say where clients connect, as in address = "127.0.0.1:6379""#,
        );
    }
    let bind = match typed.address.value() {
        Some(ListenAddress::Tcp(address)) => {
            if let Some(place) = typed.mode.place() {
                report.error(place, "only a unix socket has permissions; leave it out");
            }
            Some(Bind::Tcp(*address))
        }
        Some(ListenAddress::Unix(path)) => {
            Some(Bind::Unix { path: path.clone(), mode: typed.mode.clone().or(ListenerDefaults::mode()).0 })
        }
        None => None,
    };
    if let (Some(ListenAddress::Unix(_)), Some(place)) = (typed.address.value(), typed.proxy_protocol.place())
    {
        report.error(place, "a unix socket's clients have no network to be trusted by; leave it out");
    }
    let upstream = upstream_name(&typed.upstream, &table, named, report);
    let tenant = tenant::named(&typed.tenant, named.tenants, report);
    let mut own_tls = std::mem::take(&mut typed.tls);
    let errors = report.errors.len();
    let tls = match &bind {
        Some(Bind::Unix { .. }) => {
            for place in own_tls.places() {
                report.error(
                    place,
                    "a unix socket never leaves the machine and speaks plain text; leave it out",
                );
            }
            None
        }
        _ => {
            if own_tls.places().next().is_none() {
                own_tls = flags.clone();
            }
            tls::listener(own_tls, &table, report)
        }
    };
    if report.errors.len() > errors {
        return None;
    }
    let limits = bounds.over(&typed.limits, false, report);
    let admin_commands = bounds.overrides.admin_commands.or_else(&typed.admin_commands);
    let (bind, upstream) = (bind?, upstream?);
    let proven = tls.as_ref().is_some_and(|tls| tls.profile.clients == ClientCertificates::Required);
    let open = named
        .checked
        .iter()
        .any(|checked| checked.config.name == upstream && checked.config.client_auth == ClientAuth::Optional);
    if let (Bind::Tcp(address), Some(place)) = (&bind, typed.address.place())
        && open
        && !address.ip().is_loopback()
        && !proven
    {
        report.warn(
            place,
            format!(
                "other machines can reach {address}, and clients need no AUTH; set client-auth = \"required\" for \
                 upstream {upstream}, ask for certificates with tls-client-ca, or listen on 127.0.0.1"
            ),
        );
    }
    let place = typed.address.place().unwrap_or(&table);
    let local = !matches!(&bind, Bind::Tcp(address) if !address.ip().is_loopback());
    // By default, users of this machine may read the server's state, unless tenants must be
    // isolated from each other.
    let default = match local && named.tenants.is_empty() {
        true => AdminCommands::ReadOnly,
        false => AdminCommands::Deny,
    };
    let checked = named.checked.iter().find(|checked| checked.config.name == upstream);
    reads::warn_of_listener(&typed.reads, checked, report);
    let reads = typed.reads.or(ListenerDefaults::reads());
    let session = SessionConfig { admin_commands: admin_commands.or(default), reads, ..limits.session };
    let unix = matches!(bind, Bind::Unix { .. });
    let exposure =
        ListenerExposure { local, unix, encrypted: tls.is_some(), proven, open, tenant: tenant.is_some() };
    for warning in exposure.warnings(named) {
        report.warn(place, warning);
    }
    // The check of a tenant's policy gives its own advice.
    if session.admin_commands != AdminCommands::Allow && tenant.is_none_or(|tenant| tenant.policy.is_none()) {
        report.advise(
            place,
            format!(
                "scripts can run administrative commands that this listener refuses (as SLOWLOG RESET), since the \
                 server stops only those flagged NOSCRIPT; its ACL closes that, and `respgate doctor` tests it: ACL \
                 SETUSER {} {}",
                acts_as(&upstream, named),
                acl::rules(None)
            ),
        );
    }
    Some(ListenerConfig {
        name,
        bind,
        upstream,
        tenant: tenant.map(|tenant| tenant.name.clone()),
        proxy_protocol: typed.proxy_protocol.or(Vec::new()),
        moving_endpoint: typed.moving_endpoint.value().map(ToString::to_string),
        max_clients: limits.max_clients,
        source_rate: limits.source_rate,
        keepalive: limits.keepalive,
        session,
        tls,
    })
}

/// The reach of a listener, and the way in which its clients prove their identity.
struct ListenerExposure {
    /// True if only this machine can reach the listener.
    local: bool,
    /// True for a unix socket: only local users whom the socket's file permissions admit can
    /// connect.
    unix: bool,
    encrypted: bool,
    /// True if every client must show a certificate.
    proven: bool,
    /// True if clients need no AUTH.
    open: bool,
    /// True if the listener names a tenant.
    tenant: bool,
}

impl ListenerExposure {
    /// Returns a warning for each way in which a client could act under an identity that is not
    /// intended for it.
    fn warnings(&self, named: &Named<'_>) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if !named.users.is_empty() {
            if !self.local && !self.encrypted {
                warnings.push(
                    "users send their passwords here in plain text, and other machines can reach it; set tls-cert and \
                     tls-key, or listen on 127.0.0.1",
                );
            }
            if self.open && !self.unix && (self.local || self.proven) {
                warnings.push(
                    "there are users, and yet clients need no AUTH: who sends none acts as respgate itself; set \
                     client-auth = \"required\" for the upstream",
                );
            }
        }
        let told_apart = |by: fn(&MembersConfig) -> bool| named.tenants.iter().any(|it| by(&it.members));
        let covered = self.tenant || told_apart(|members| members.default);
        if !self.proven && !covered && told_apart(|members| !members.certificates.is_empty()) {
            warnings.push(
                "tenants are told apart by certificates, and a client that shows none here may be nobody's, without policy \
                 and limits; set tls-client-ca with tls-client-auth = \"required\", name a tenant for this listener, or \
                 make one the default",
            );
        }
        warnings
    }
}

/// Returns the server's user under which a listener's clients act, or a placeholder if there may be
/// several.
fn acts_as(upstream: &str, named: &Named<'_>) -> String {
    const ANY: &str = "NAME";
    let Some(upstream) = named.checked.iter().find(|checked| checked.config.name == upstream) else {
        return ANY.into();
    };
    let own_users = named.users.iter().any(|user| user.account.is_some());
    let pass_through = named.users.is_empty() && upstream.config.client_auth == ClientAuth::Required;
    let username = upstream.account.as_ref().map(|account| &account.source.username);
    match username {
        _ if own_users || pass_through => ANY.into(),
        None | Some(None) => "default".into(),
        Some(Some(NameSource::Given(name))) => name.clone(),
        Some(Some(NameSource::File(_))) => ANY.into(),
    }
}

fn upstream_name(
    typed: &Setting<String>,
    table: &Place,
    named: &Named<'_>,
    report: &mut Report,
) -> Option<String> {
    match typed {
        Setting::Given(name, _) if named.names.contains(name) => Some(name.clone()),
        Setting::Given(name, place) => {
            let hint = suggestion(name, named.names.iter().map(String::as_str));
            report.error(place, format!("no upstream is named {name:?}{hint}"));
            None
        }
        Setting::Invalid => None,
        Setting::Absent => {
            if named.usual.is_none() && !named.names.is_empty() {
                report.error(
                    &table.sub_key("upstream"),
                    format!("is missing; say which one is meant: {}", named.names.join(", ")),
                );
            }
            named.usual.map(str::to_owned)
        }
    }
}

impl Bounds<'_> {
    /// Reports the errors in `[limits]` once. The check of each listener then reports only the
    /// listener's own errors.
    pub(super) fn check_defaults(&self, report: &mut Report) {
        self.over(self.defaults, true, report);
    }

    /// Returns one listener's limits. An override wins over the listener's own key, that over
    /// `[limits]`, and that over the default.
    fn over(&self, own: &SessionKeys, report_defaults: bool, report: &mut Report) -> Bounded {
        let mut quiet = Report::default();
        // An error in `[limits]` or in a flag is reported in the first pass only.
        macro_rules! pick {
            ($key:ident) => {{
                let forced = &self.overrides.sessions.$key;
                let from_own = forced.is_absent() && !own.$key.is_absent();
                let setting = forced.or_else(&own.$key.or_else(&self.defaults.$key));
                let report = if from_own || report_defaults { &mut *report } else { &mut quiet };
                (setting, report)
            }};
        }
        macro_rules! at_least {
            ($key:ident, $least:expr, $shown:literal) => {{
                let (setting, report) = pick!($key);
                setting.at_least($least, $shown, report)
            }};
        }
        let max_clients = at_least!(max_clients, 1, "1").or(SessionDefaults::max_clients());
        let per_second = pick!(connects_per_second).0.or(SessionDefaults::connects_per_second());
        let source_rate = SourceRateConfig {
            per_second,
            burst: at_least!(connects_burst, 1, "1").or(per_second.saturating_mul(2)),
            exempt: pick!(connects_exempt).0.or(SessionDefaults::connects_exempt()),
        };
        let max_args = at_least!(max_args, 16, "16").or(SessionDefaults::max_args());
        let max_pipeline = at_least!(max_pipeline, 1, "1").or(SessionDefaults::max_pipeline());
        let write_timeout =
            at_least!(write_timeout, Duration::from_millis(1), "1ms").or(SessionDefaults::write_timeout());
        // "0s" in a listener removes a limit that `[limits]` sets.
        macro_rules! timeout {
            ($key:ident) => {
                Some(pick!($key).0.or(SessionDefaults::$key())).filter(|limit| !limit.is_zero())
            };
        }
        let least = Duration::from_secs(1);
        let timeouts = Timeouts {
            idle: timeout!(idle_timeout),
            transaction: timeout!(transaction_timeout),
            first_command: timeout!(first_command_timeout),
            command: timeout!(command_timeout),
            slow_reader_soft: match pick!(slow_reader_soft) {
                (Setting::Given(Bytes(0), _), _) => None,
                (setting, report) => {
                    let soft = setting.at_least(LEAST_SIZE, "1KiB", report);
                    Some(soft.or(SessionDefaults::slow_reader_soft()).0).filter(|soft| *soft > 0)
                }
            },
            slow_reader_soft_time: at_least!(slow_reader_soft_time, least, "1s")
                .or(SessionDefaults::slow_reader_soft_time()),
        };
        let keepalive = at_least!(keepalive, least, "1s").or(SessionDefaults::keepalive());
        let buffered = ("max-buffered", self.max_buffered);
        let (request, bulk) = (SessionDefaults::max_request().0, SessionDefaults::max_bulk().0);
        let size = |setting: Setting<Bytes>, default, outer, report: &mut Report| {
            within(setting.at_least(LEAST_SIZE, "1KiB", report), default, outer, report)
        };
        let (setting, sink) = pick!(max_request);
        let max_request = size(setting, request, buffered, sink);
        let (setting, sink) = pick!(max_bulk);
        let max_bulk = size(setting, bulk, ("max-request", max_request), sink);
        let (setting, sink) = pick!(max_inline);
        let max_inline = size(setting, SessionDefaults::max_inline().0, ("max-request", max_request), sink);
        let (setting, sink) = pick!(max_reply_buffer);
        let max_reply_buffer = size(setting, SessionDefaults::max_reply_buffer().0, buffered, sink);
        if timeouts.slow_reader_soft.is_some_and(|soft| soft > max_reply_buffer) {
            let (setting, report) = pick!(slow_reader_soft);
            within(setting, 0, ("max-reply-buffer", max_reply_buffer), report);
        }
        let session = SessionConfig {
            request: RequestLimits { max_request, max_bulk, max_args, max_inline, unauthenticated: false },
            max_reply_buffer,
            max_pipeline,
            write_timeout,
            admin_commands: AdminCommands::Deny,
            reads: Reads::Primary,
            timeouts,
        };
        Bounded { max_clients, source_rate, keepalive, session }
    }
}

/// One listener's limits.
struct Bounded {
    max_clients: usize,
    source_rate: SourceRateConfig,
    keepalive: Duration,
    /// All session settings but `admin_commands` and `reads`, which are no limits.
    session: SessionConfig,
}

/// Returns true if two addresses cannot both be bound. Port 0 means a free port each time.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => {
            let same_family = one.is_ipv4() == other.is_ipv4();
            let wide = one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() == other.port() && one.port() != 0 && (one.ip() == other.ip() || (same_family && wide))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_as_the_system_says() {
        let overlaps = |one: &str, other: &str| {
            let parse = |text| crate::config::address::listen(text).unwrap();
            overlap(&parse(one), &parse(other))
        };
        assert!(overlaps("127.0.0.1:1", "127.0.0.1:1"));
        assert!(overlaps("127.0.0.1:1", "0.0.0.0:1"));
        assert!(overlaps("[::]:1", "[::1]:1"));
        assert!(overlaps("unix:/x", "unix:/x"));
        assert!(!overlaps("127.0.0.1:1", "127.0.0.2:1"));
        assert!(!overlaps("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!overlaps("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!overlaps("unix:/x", "unix:/y"));
    }
}

//! Applies flags and environment variables to what the file says.
//!
//! A flag wins over its environment variable, and both win over the file. With a file:
//!
//! - `--listen` adds listeners to the file's.
//! - `--upstream` sets the address of the upstream `main`, or of the file's only upstream. The
//!   upstream's other keys stay. A file without upstreams gets one named `main`.
//! - `--upstream-user`, `--sentinel-user`, the password flags, `--upstream-ca` and
//!   `--upstream-server-name` apply to that same upstream.
//! - `--availability-zone` applies to every upstream.
//! - `--tls-cert`, `--tls-key` and `--tls-client-ca` apply to every TCP listener without TLS keys
//!   of its own.
//! - `--max-clients` and `--admin-commands` apply to every listener.

use std::ffi::OsString;
use std::path::PathBuf;

use super::report::{Place, Report};
use super::schema::ListenerKeys;
use super::setting::Setting;
use super::typed::{Named, Typed};
use super::value::Value;
use crate::rotation::source::{NameSource, SecretSource};

/// The environment variable with the upstream's password. No flag takes the password, because every
/// user of a machine can read command lines.
pub const UPSTREAM_PASSWORD: &str = "RESPGATE_UPSTREAM_PASSWORD";

/// The environment variable with the Sentinels' password.
pub const SENTINEL_PASSWORD: &str = "RESPGATE_SENTINEL_PASSWORD";

/// The environment variables that have no flag, each with the key that it replaces.
pub const PASSWORD_VARIABLES: [(&str, &str); 2] = [
    (UPSTREAM_PASSWORD, "upstreams.*.password-env"),
    (SENTINEL_PASSWORD, "upstreams.*.sentinel-password-env"),
];

/// One given flag, or its environment variable.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag's name without dashes.
    pub name: &'static str,
    /// Where it was given: flag or environment variable.
    pub place: Place,
    /// The given value.
    pub text: String,
}

/// The flags and environment variables that were given.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// All other settings.
    pub settings: Vec<Flag>,
}

impl Flags {
    fn setting<T: Value>(&self, name: &str, report: &mut Report) -> Setting<T> {
        self.settings
            .iter()
            .find(|flag| flag.name == name)
            .map_or(Setting::Absent, |flag| parse(flag, T::from_text, report))
    }

    /// Applies the flags to what the file says.
    pub fn apply(&self, typed: &mut Typed, env: &dyn Fn(&str) -> Option<OsString>, report: &mut Report) {
        typed.process.workers.override_with(self.setting("workers", report));
        typed.process.admin.override_with(self.setting("admin", report));
        typed.process.drain_timeout.override_with(self.setting("drain-timeout", report));
        typed.log.format.override_with(self.setting("log-format", report));
        typed.log.level.override_with(self.setting("log-level", report));
        typed.overrides.sessions.max_clients = self.setting("max-clients", report);
        typed.overrides.admin_commands = self.setting("admin-commands", report);
        typed.tls.cert = self.setting("tls-cert", report);
        typed.tls.key = self.setting("tls-key", report);
        typed.tls.client_ca = self.setting("tls-client-ca", report);
        self.apply_upstream(typed, env, report);
        self.apply_listeners(typed, report);
    }

    fn apply_upstream(&self, typed: &mut Typed, env: &dyn Fn(&str) -> Option<OsString>, report: &mut Report) {
        if let Some(flag) = self.settings.iter().find(|flag| flag.name == "upstream") {
            if typed.upstreams.is_empty() {
                typed.upstreams.push(Named::new("main", flag.place.clone()));
            }
            if let Some(upstream) = typed.usual_upstream() {
                upstream.keys.discovery.url = parse(flag, Value::from_text, report);
                upstream.keys.discovery.address = Setting::Absent;
                upstream.keys.discovery.sentinels = Setting::Absent;
                upstream.keys.discovery.primary_name = Setting::Absent;
                if let (Some(url), Place::Flag(_)) = (upstream.keys.discovery.url.value(), &flag.place)
                    && url.password.is_some()
                {
                    report.warn(
                        &flag.place,
                        format!(
                            "holds a password, and every user of this machine can read command lines; \
                             use {UPSTREAM_PASSWORD} or --upstream-password-file"
                        ),
                    );
                }
            } else {
                report.error(&flag.place, SEVERAL);
            }
        }
        let username = self.setting("upstream-user", report).map(NameSource::Given);
        let password = self.password("upstream-password-file", UPSTREAM_PASSWORD, env, report);
        let sentinel_username = self.setting("sentinel-user", report).map(NameSource::Given);
        let sentinel_password = self.password("sentinel-password-file", SENTINEL_PASSWORD, env, report);
        let zone = self.setting("availability-zone", report);
        for upstream in &mut typed.upstreams {
            upstream.keys.reads.availability_zone.override_with(zone.clone());
        }
        let ca = self.setting("upstream-ca", report);
        let server_name = self.setting("upstream-server-name", report);
        if let Some(upstream) = typed.usual_upstream() {
            let keys = &mut upstream.keys;
            keys.tls.ca.override_with(ca);
            keys.tls.server_name.override_with(server_name);
            keys.credentials.username.override_with(username);
            keys.credentials.password.override_with(password);
            keys.sentinel_credentials.username.override_with(sentinel_username);
            keys.sentinel_credentials.password.override_with(sentinel_password);
        } else if !typed.upstreams.is_empty() {
            let places = [
                username.place(),
                password.place(),
                sentinel_username.place(),
                sentinel_password.place(),
                ca.place(),
                server_name.place(),
            ];
            for place in places.into_iter().flatten() {
                report.error(place, SEVERAL);
            }
        }
    }

    fn password(
        &self,
        file_flag: &str,
        variable: &str,
        env: &dyn Fn(&str) -> Option<OsString>,
        report: &mut Report,
    ) -> Setting<SecretSource> {
        let file = self.setting::<PathBuf>(file_flag, report).map(SecretSource::File);
        if env(variable).is_none_or(|value| value.is_empty()) {
            return file;
        }
        let place = Place::Env(variable.into());
        match &file {
            Setting::Given(_, Place::Env(other)) => {
                report.error(&place, format!("{other} gives the password too; leave one out"));
                Setting::Invalid
            }
            Setting::Absent => Setting::Given(SecretSource::Env(variable.into()), place),
            _ => file,
        }
    }

    fn apply_listeners(&self, typed: &mut Typed, report: &mut Report) {
        for flag in self.settings.iter().filter(|flag| flag.name == "listen") {
            let taken = |name: &str| typed.listeners.iter().any(|listener| listener.name == name);
            let names = (1..).map(|count| if count == 1 { "main".into() } else { format!("main-{count}") });
            let name = names.into_iter().find(|name: &String| !taken(name)).unwrap_or_default();
            let mut listener = Named::<ListenerKeys>::new(name, flag.place.clone());
            listener.keys.address = parse(flag, Value::from_text, report);
            typed.listeners.push(listener);
        }
    }
}

const SEVERAL: &str = "the file has several upstreams and none is named main, so it is unclear which one is meant; \
                       rename one to main, or say it in the file";

fn parse<T>(flag: &Flag, from_text: impl Fn(&str) -> Result<T, String>, report: &mut Report) -> Setting<T> {
    match from_text(&flag.text) {
        Ok(value) => Setting::Given(value, flag.place.clone()),
        Err(error) => {
            report.error(&flag.place, error);
            Setting::Invalid
        }
    }
}

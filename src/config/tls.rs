//! TLS settings as typed: of listeners, of upstreams, and of Sentinels, whose keys begin with `sentinel-`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_rustls::rustls::pki_types::ServerName;
use toml::de::DeValue;

use super::address;
use super::document::Section;
use super::report::{Place, Report};
use super::typed::Setting;
use super::value::{Value, shown};
use crate::net::tls::Floor;
use crate::net::tls::names::server_name;
use crate::net::tls::server::ClientCertificates;
use crate::topology::Address;

/// One or several paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths(pub Vec<PathBuf>);

/// A name as a certificate bears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub ServerName<'static>);

/// TLS towards servers or Sentinels.
#[derive(Clone, Debug, Default)]
pub struct TypedClientTls {
    pub on: Setting<bool>,
    pub ca: Setting<Paths>,
    pub system_roots: Setting<bool>,
    pub crl: Setting<Paths>,
    pub cert: Setting<PathBuf>,
    pub key: Setting<PathBuf>,
    pub server_name: Setting<Name>,
    pub server_names: Setting<Vec<(Address, Name)>>,
    pub min_version: Setting<Floor>,
    pub unverified: Setting<bool>,
}

/// TLS towards clients.
#[derive(Clone, Debug, Default)]
pub struct TypedServerTls {
    pub cert: Setting<PathBuf>,
    pub key: Setting<PathBuf>,
    pub client_ca: Setting<Paths>,
    pub client_auth: Setting<ClientCertificates>,
    pub crl: Setting<Paths>,
    pub min_version: Setting<Floor>,
    pub handshake_timeout: Setting<Duration>,
}

/// The keys of one leg towards servers.
pub struct ClientKeys {
    pub on: &'static str,
    pub ca: &'static str,
    pub system_roots: &'static str,
    pub crl: &'static str,
    pub cert: &'static str,
    pub key: &'static str,
    pub server_name: &'static str,
    pub server_names: &'static str,
    pub min_version: &'static str,
    pub unverified: &'static str,
    default_port: u16,
}

macro_rules! client_keys {
    ($prefix:literal, $port:expr) => {
        ClientKeys {
            on: concat!($prefix, "tls"),
            ca: concat!($prefix, "tls-ca"),
            system_roots: concat!($prefix, "tls-system-roots"),
            crl: concat!($prefix, "tls-crl"),
            cert: concat!($prefix, "tls-cert"),
            key: concat!($prefix, "tls-key"),
            server_name: concat!($prefix, "tls-server-name"),
            server_names: concat!($prefix, "tls-server-names"),
            min_version: concat!($prefix, "tls-min-version"),
            unverified: concat!($prefix, "tls-dangerously-skip-verification"),
            default_port: $port,
        }
    };
}

/// Towards data nodes.
pub const DATA: ClientKeys = client_keys!("", address::DEFAULT_PORT);
/// Towards Sentinels.
pub const SENTINEL: ClientKeys = client_keys!("sentinel-", address::DEFAULT_SENTINEL_PORT);

impl TypedClientTls {
    /// Reads the keys of one leg. Relative paths start from `folder`.
    pub fn read(section: &Section<'_>, keys: &ClientKeys, folder: &Path, report: &mut Report) -> Self {
        let node = |text: &str| address::tcp(text, keys.default_port);
        Self {
            on: section.read(keys.on, report),
            ca: paths(section, keys.ca, folder, report),
            system_roots: section.read(keys.system_roots, report),
            crl: paths(section, keys.crl, folder, report),
            cert: path(section, keys.cert, folder, report),
            key: path(section, keys.key, folder, report),
            server_name: section.read(keys.server_name, report),
            server_names: section.read_pairs(keys.server_names, node, Name::from_text, report),
            min_version: section.read(keys.min_version, report),
            unverified: section.read(keys.unverified, report),
        }
    }

    /// Where settings were typed that mean nothing without TLS.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        [
            self.ca.place(),
            self.system_roots.place(),
            self.crl.place(),
            self.cert.place(),
            self.key.place(),
            self.server_name.place(),
            self.server_names.place(),
            self.min_version.place(),
            self.unverified.place(),
        ]
        .into_iter()
        .flatten()
    }
}

impl TypedServerTls {
    /// Reads a listener's keys. Relative paths start from `folder`.
    pub fn read(section: &Section<'_>, folder: &Path, report: &mut Report) -> Self {
        Self {
            cert: path(section, "tls-cert", folder, report),
            key: path(section, "tls-key", folder, report),
            client_ca: paths(section, "tls-client-ca", folder, report),
            client_auth: section.read("tls-client-auth", report),
            crl: paths(section, "tls-crl", folder, report),
            min_version: section.read("tls-min-version", report),
            handshake_timeout: section.read("tls-handshake-timeout", report),
        }
    }

    /// Where settings were typed.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        [
            self.cert.place(),
            self.key.place(),
            self.client_ca.place(),
            self.client_auth.place(),
            self.crl.place(),
            self.min_version.place(),
            self.handshake_timeout.place(),
        ]
        .into_iter()
        .flatten()
    }
}

fn path(section: &Section<'_>, key: &'static str, folder: &Path, report: &mut Report) -> Setting<PathBuf> {
    section.read::<PathBuf>(key, report).map(|path| folder.join(path))
}

fn paths(section: &Section<'_>, key: &'static str, folder: &Path, report: &mut Report) -> Setting<Paths> {
    section
        .read::<Paths>(key, report)
        .map(|paths| Paths(paths.0.into_iter().map(|path| folder.join(path)).collect()))
}

impl Value for Paths {
    const EXPECTED: &str =
        r#"a path in quotes, or a list of paths; write it like "ca.pem" or ["ca.pem", "/etc/ssl/certs"]"#;

    fn from_text(text: &str) -> Result<Self, String> {
        PathBuf::from_text(text).map(|path| Self(vec![path]))
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Self::from_text(text),
            DeValue::Array(list) if list.is_empty() => Err("is empty; name at least one".into()),
            DeValue::Array(list) => {
                list.iter().map(|path| PathBuf::from_toml(path.get_ref())).collect::<Result<_, _>>().map(Self)
            }
            other => Err(format!("{} is not {}", shown(other), Self::EXPECTED)),
        }
    }
}

impl Value for Name {
    const EXPECTED: &str = r#"a name of a certificate; write it like "db.example""#;

    fn from_text(text: &str) -> Result<Self, String> {
        server_name(text).map(Self).ok_or_else(|| format!("{text:?} is not {}", Self::EXPECTED))
    }
}

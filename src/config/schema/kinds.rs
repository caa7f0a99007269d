//! The kinds of values that keys have: how each is read and documented. A type that flags can have
//! too, a [`Value`], is also a kind.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::super::address::{self, DEFAULT_PORT, DEFAULT_SENTINEL_PORT};
use super::super::document::Section;
use super::super::report::Report;
use super::super::rule;
use super::super::setting::Setting;
use super::super::tls::{Name, Paths};
use super::super::value::Value;
use super::shape::Shape;
use crate::tenant::members::CertificateRule;
use crate::tenant::policy::config::{self as policy, Rule};
use crate::topology::Address;

/// Reads a key's value, and knows the form in which the user writes it.
pub trait Kind {
    /// The type of the value that is kept.
    type Value;
    /// The form in which the user writes the value.
    const SHAPE: Shape;

    /// Reads the value and reports an error in it. Relative paths start from `folder`.
    fn read(section: &Section<'_>, key: &str, folder: &Path, report: &mut Report) -> Setting<Self::Value>;
}

impl<T: Value> Kind for T {
    type Value = T;
    const SHAPE: Shape = T::SHAPE;

    fn read(section: &Section<'_>, key: &str, _: &Path, report: &mut Report) -> Setting<T> {
        section.read(key, report)
    }
}

/// Declares a kind that is not a [`Value`]: its name, the type that is kept, how the user writes
/// it, and how it is read.
macro_rules! kind {
    ($(#[doc = $doc:literal])* $name:ident: $value:ty, $shape:expr, $read:expr) => {
        $(#[doc = $doc])*
        pub struct $name;

        impl Kind for $name {
            type Value = $value;
            const SHAPE: Shape = $shape;

            fn read(section: &Section<'_>, key: &str, folder: &Path, report: &mut Report) -> Setting<$value> {
                let read: fn(&Section<'_>, &str, &Path, &mut Report) -> Setting<$value> = $read;
                read(section, key, folder, report)
            }
        }
    };
}

const NETWORK: Shape = Shape::Text("a network or an IP address");
const NAME: Shape = Shape::Text("a text");

kind! {
    /// A path, which may be relative to the file's folder.
    File: PathBuf, Shape::Text("a path"),
    |section, key, folder, report| section.read::<PathBuf>(key, report).map(|path| folder.join(path))
}
kind! {
    /// One or several paths, which may be relative to the file's folder.
    Files: Paths, Shape::OneOrMany("a path"),
    |section, key, folder, report| {
        let join = |paths: Paths| Paths(paths.0.into_iter().map(|path| folder.join(path)).collect());
        section.read::<Paths>(key, report).map(join)
    }
}
kind! {
    /// A program and its arguments. If the program's name has a slash, it may be relative to the
    /// file's folder; otherwise respgate searches PATH.
    CommandLine: Vec<String>, Shape::List { of: &NAME, least: 1 },
    |section, key, folder, report| {
        section.read_list(key, |word| Ok(word.to_owned()), report).map(|mut words| {
            if let Some(program) = words.first_mut().filter(|program| program.contains('/')) {
                *program = folder.join(&*program).to_string_lossy().into_owned();
            }
            words
        })
    }
}
kind! {
    /// Networks, at least one.
    Networks: Vec<IpNet>, Shape::List { of: &NETWORK, least: 1 },
    |section, key, _, report| section.read_list(key, address::network, report)
}
kind! {
    /// Networks; the list may be empty.
    NetworksOrNone: Vec<IpNet>, Shape::List { of: &NETWORK, least: 0 },
    |section, key, _, report| section.read_any_list(key, address::network, report)
}
kind! {
    /// An address that clients can connect to.
    Endpoint: Address, Shape::Text("`host:port`, port 6379 if left out"),
    |section, key, _, report| match section.read::<Address>(key, report) {
        Setting::Given(Address::Unix(_), place) => {
            report.error(&place, "is a socket of one machine; write a host and a port");
            Setting::Invalid
        }
        other => other,
    }
}
kind! {
    /// Names in certificates.
    CertificateNames: Vec<CertificateRule>,
    Shape::List { of: &Shape::Text("`CN:`, `DNS:` or `URI:` and a name"), least: 1 },
    |section, key, _, report| section.read_list(key, CertificateRule::parse, report)
}
kind! {
    /// Names of users.
    UserNames: Vec<String>, Shape::List { of: &NAME, least: 1 },
    |section, key, _, report| section.read_values(key, &format!(r#"{key} = ["app", "batch"]"#), report)
}
kind! {
    /// Prefixes of clients' names.
    NamePrefixes: Vec<String>, Shape::List { of: &NAME, least: 1 },
    |section, key, _, report| section.read_values(key, &format!(r#"{key} = ["app-"]"#), report)
}
kind! {
    /// Numeric ids of users of the system.
    Uids: Vec<u32>, Shape::List { of: &Shape::Integer, least: 1 },
    |section, key, _, report| section.read_values(key, &format!("{key} = [1000, 1001]"), report)
}
kind! {
    /// Rules about commands.
    CommandRules: Vec<Rule>,
    Shape::List { of: &Shape::Text("`+` or `-`, and a command, `container|subcommand` or `@category`"), least: 1 },
    |section, key, _, report| section.read_list(key, rule::rule, report)
}
kind! {
    /// Prefixes of keys or channels.
    Prefixes: Vec<Box<[u8]>>, Shape::List { of: &NAME, least: 1 },
    |section, key, _, report| section.read_list(key, policy::prefix, report)
}
kind! {
    /// Addresses of Sentinels.
    SentinelAddresses: Vec<Address>, Shape::List { of: &Shape::Text("`host:port`, port 26379 if left out"), least: 1 },
    |section, key, _, report| {
        section.read_list(key, |text| address::tcp(text, DEFAULT_SENTINEL_PORT), report)
    }
}
kind! {
    /// Addresses of data servers.
    NodeAddresses: Vec<Address>, Shape::List { of: &Shape::Text("`host:port`, port 6379 if left out"), least: 1 },
    |section, key, _, report| section.read_list(key, |text| address::tcp(text, DEFAULT_PORT), report)
}
kind! {
    /// The address that Sentinels announce, and the address that respgate connects to instead.
    AddressMap: HashMap<Address, Address>, Shape::Map("the announced `host:port`", "the `host:port` to dial"),
    |section, key, _, report| {
        let node = |text: &str| address::tcp(text, DEFAULT_PORT);
        section.read_pairs(key, node, node, report).map(HashMap::from_iter)
    }
}
kind! {
    /// Names in certificates, by address. A port that is left out is the default port of the leg:
    /// the Sentinels' keys begin with `sentinel-`.
    ServerNames: Vec<(Address, Name)>, Shape::Map("a server's `host:port`", "the name in its certificate"),
    |section, key, _, report| {
        let port = if key.starts_with("sentinel-") { DEFAULT_SENTINEL_PORT } else { DEFAULT_PORT };
        section.read_pairs(key, |text| address::tcp(text, port), Name::from_text, report)
    }
}

//! Parses each type of setting from TOML and from text (flags and environment variables).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::address::ListenAddress;
use super::model::LogFormat;
use super::report::suggestion;
use super::schema::shape::{Shape, Shown};
use super::url::UpstreamUrl;
use super::{address, size, url};
use crate::discovery::config::SwitchRule;
use crate::latency::config::{Measure, ShownArguments};
use crate::logs::is_filter;
use crate::net::tls::Floor;
use crate::net::tls::server::ClientCertificates;
use crate::replica::Reads;
use crate::session::config::AdminCommands;
use crate::tenant::config::Pubsub;
use crate::tenant::limits::config::OverLimit;
use crate::tenant::policy::config::Scripts;
use crate::tenant::users::hash::PasswordHash;
use crate::topology::Address;
use crate::upstream::config::{
    BlockedPop, ClientAuth, CrossSlotWrites, Pool, ReadYourWrites, ReadsInHold, Reauth, RetryWrites,
};
use crate::upstream::shared::fair::fair_queue::Priority;

/// The type of a setting.
pub trait Value: Sized {
    /// What a valid value is. Error texts show it after "is not".
    const EXPECTED: &str;

    /// How the user writes the value, for the documents.
    const SHAPE: Shape;

    /// Parses the text of a flag, an environment variable or a TOML string.
    ///
    /// # Errors
    /// Returns what is wrong and how to write it.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Parses a TOML value. Most types are written as strings.
    ///
    /// # Errors
    /// Returns what is wrong and how to write it.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Self::from_text(text),
            other => Err(format!("{} is not {}", shown(other), Self::EXPECTED)),
        }
    }
}

/// Names a TOML value for an error text. It never shows the content of a string: each type knows
/// itself whether its text may be shown.
pub fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "a string".into(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub usize);

/// The permission bits of a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

/// A log filter in `tracing`'s syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(pub String);

fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits_only).ok_or_else(|| format!("{text:?} is not a whole number"))
}

fn integer<T: std::str::FromStr>(value: &DeValue<'_>) -> Result<T, String> {
    match value {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| number.to_string().parse().ok())
            .ok_or_else(|| format!("{number} is out of range")),
        DeValue::String(text) => Err(format!("{text:?} is not a whole number; write it without quotes")),
        other => Err(format!("{} is not a whole number", shown(other))),
    }
}

impl Value for usize {
    const EXPECTED: &str = "a whole number";
    const SHAPE: Shape = Shape::Integer;

    fn from_text(text: &str) -> Result<Self, String> {
        whole(text)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        integer(value)
    }
}

impl Value for u32 {
    const EXPECTED: &str = "a whole number";
    const SHAPE: Shape = Shape::Integer;

    fn from_text(text: &str) -> Result<Self, String> {
        whole(text)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        integer(value)
    }
}

impl Value for bool {
    const EXPECTED: &str = "true or false";
    const SHAPE: Shape = Shape::Boolean;

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is not {}", Self::EXPECTED))
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Boolean(value) => Ok(*value),
            DeValue::String(text) => {
                Err(format!("{text:?} is not {}; write it without quotes", Self::EXPECTED))
            }
            other => Err(format!("{} is not {}", shown(other), Self::EXPECTED)),
        }
    }
}

impl Value for Bytes {
    const EXPECTED: &str = size::SIZE;
    const SHAPE: Shape = Shape::Size;

    fn from_text(text: &str) -> Result<Self, String> {
        size::bytes(text).map(Self)
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Integer(_) => integer(value).map(Self),
            DeValue::String(text) => Self::from_text(text),
            other => Err(format!("{} is not {}", shown(other), Self::EXPECTED)),
        }
    }
}

impl Value for Duration {
    const EXPECTED: &str = size::DURATION;
    const SHAPE: Shape = Shape::Duration;

    fn from_text(text: &str) -> Result<Self, String> {
        size::duration(text)
    }
}

impl Value for Mode {
    const EXPECTED: &str = r#"a socket's permissions; write them in octal, like "0770""#;
    const SHAPE: Shape = Shape::Text("permissions in octal");

    fn from_text(text: &str) -> Result<Self, String> {
        let octal =
            !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        match u32::from_str_radix(text, 8) {
            Ok(bits) if octal && bits <= 0o777 => Ok(Self(bits)),
            _ => Err(format!("{text:?} is not {}", Self::EXPECTED)),
        }
    }
}

impl Value for String {
    const EXPECTED: &str = "a text in quotes";
    const SHAPE: Shape = Shape::Text("a text");

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("is empty; leave it out or fill it in".into()) } else { Ok(text.into()) }
    }
}

impl Value for PasswordHash {
    const EXPECTED: &str = "a password's hash; make one with: respgate hash-password";
    const SHAPE: Shape = Shape::Text("a password's hash");

    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Value for PathBuf {
    const EXPECTED: &str = "a path in quotes";
    const SHAPE: Shape = Shape::Text("a path");

    fn from_text(text: &str) -> Result<Self, String> {
        String::from_text(text).map(Self::from)
    }
}

impl Value for SocketAddr {
    const EXPECTED: &str = r#"an address; write it like "127.0.0.1:9121""#;
    const SHAPE: Shape = Shape::Text("an IP address and a port");

    fn from_text(text: &str) -> Result<Self, String> {
        address::socket_address(text, 9121)
    }
}

impl Value for ListenAddress {
    const EXPECTED: &str = r#"an address; write it like "127.0.0.1:6379" or "unix:/run/respgate.sock""#;
    const SHAPE: Shape = Shape::Text("an IP address and a port, or `unix:` and a path");

    fn from_text(text: &str) -> Result<Self, String> {
        address::listen(text)
    }
}

impl Value for Address {
    const EXPECTED: &str = r#"an address; write it like "db.example:6379""#;
    const SHAPE: Shape = Shape::Text("`host:port`, or `unix:` and a path");

    fn from_text(text: &str) -> Result<Self, String> {
        address::address(text, address::DEFAULT_PORT)
    }
}

impl Value for UpstreamUrl {
    const EXPECTED: &str = r#"a URL; write it like "redis://db.example:6379""#;
    const SHAPE: Shape = Shape::Text("a URL");

    fn from_text(text: &str) -> Result<Self, String> {
        url::upstream(text)
    }
}

impl Shown for Bytes {
    fn shown(&self) -> String {
        if self.0 == 0 { "0".into() } else { format!("{:?}", size::show_bytes(self.0)) }
    }
}

impl Shown for Mode {
    fn shown(&self) -> String {
        format!("\"{:04o}\"", self.0)
    }
}

impl Shown for LogLevel {
    fn shown(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// Implements a type whose values are a few words.
macro_rules! words {
    ($type:ty, $expected:literal, $($word:literal => $value:expr),+) => {
        impl Value for $type {
            const EXPECTED: &str = $expected;
            const SHAPE: Shape = Shape::Words(&[$($word),+]);

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(format!("{text:?} is not {}{}", Self::EXPECTED, suggestion(text, [$($word),+]))),
                }
            }
        }

        impl Shown for $type {
            fn shown(&self) -> String {
                let words = [$(($word, $value)),+];
                words.iter().find(|(_, value)| value == self).map(|(word, _)| format!("{word:?}")).unwrap_or_default()
            }
        }
    };
}

words!(Measure, r#""off", "on" or "commands""#,
    "off" => Self::Off,
    "on" => Self::On,
    "commands" => Self::Commands);
words!(ShownArguments, r#""redact" or "show""#, "redact" => Self::Redact, "show" => Self::Show);
words!(LogFormat, r#""auto", "human" or "json""#,
    "auto" => Self::Auto, "human" => Self::Human, "json" => Self::Json);
words!(ClientAuth, r#""optional" or "required""#, "optional" => Self::Optional, "required" => Self::Required);
words!(SwitchRule, r#""majority" or "leader""#, "majority" => Self::Majority, "leader" => Self::Leader);
words!(Reauth, r#""keep", "reconnect" or "refresh""#, "keep" => Self::Keep, "reconnect" => Self::Reconnect, "refresh" => Self::Refresh);
words!(Pool, r#""shared" or "session""#, "shared" => Self::Shared, "session" => Self::Session);
words!(RetryWrites, r#""never", "same-reply" or "idempotent""#,
    "never" => Self::Never, "same-reply" => Self::SameReply, "idempotent" => Self::Idempotent);
words!(BlockedPop, r#""timeout" or "continue""#,
    "timeout" => Self::TimesOut, "continue" => Self::Continues);
words!(Priority, r#""high", "normal" or "low""#, "high" => Self::High, "normal" => Self::Normal, "low" => Self::Low);
words!(Pubsub, r#""dedicated" or "fan-in""#, "dedicated" => Self::Dedicated, "fan-in" => Self::FanIn);
words!(Reads, r#""primary", "on-request", "prefer-replica" or "replica""#,
    "primary" => Self::Primary,
    "on-request" => Self::OnRequest,
    "prefer-replica" => Self::PreferReplica,
    "replica" => Self::Replica);
words!(CrossSlotWrites, r#""refuse" or "split""#, "refuse" => Self::Refuse, "split" => Self::Split);
words!(ReadsInHold, r#""wait" or "replica""#, "wait" => Self::Wait, "replica" => Self::Replica);
words!(ReadYourWrites, r#""session", "tenant" or "off""#,
    "session" => Self::Session, "tenant" => Self::Tenant, "off" => Self::Off);
words!(OverLimit, r#""delay" or "reject""#, "delay" => Self::Delay, "reject" => Self::Reject);
words!(Scripts, r#""deny" or "declared-keys""#,
    "deny" => Self::Deny, "declared-keys" => Self::DeclaredKeys);
words!(Floor, r#""1.2" or "1.3""#, "1.2" => Self::Tls12, "1.3" => Self::Tls13);
words!(ClientCertificates, r#""none", "optional" or "required""#,
    "none" => Self::Ignored, "optional" => Self::Optional, "required" => Self::Required);
words!(
    AdminCommands,
    r#""deny", "read-only" or "allow""#,
    "deny" => Self::Deny,
    "read-only" => Self::ReadOnly,
    "allow" => Self::Allow
);

impl Value for LogLevel {
    const EXPECTED: &str = r#"a log level; write "error", "warn", "info", "debug", "trace", "off", or by module "info,respgate::discovery=debug""#;
    const SHAPE: Shape = Shape::Text("a level, or levels by module");

    fn from_text(text: &str) -> Result<Self, String> {
        if is_filter(text) {
            Ok(Self(text.into()))
        } else {
            Err(format!("{text:?} is not {}", Self::EXPECTED))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_suggest_a_near_one() {
        let error = ClientAuth::from_text("optionl").unwrap_err();
        assert_eq!(error, r#""optionl" is not "optional" or "required"; did you mean "optional"?"#);
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(Mode::from_text("0770"), Ok(Mode(0o770)));
        for text in ["", "+7", "0778", "1777", "00777", "rwx"] {
            assert!(Mode::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn log_levels_may_name_modules() {
        for text in ["info", "warn,respgate::discovery=debug", "off"] {
            assert_eq!(LogLevel::from_text(text), Ok(LogLevel(text.into())));
        }
        for text in ["", "verbose", "info,", "=info", "respgate=loud", "INFO"] {
            assert!(LogLevel::from_text(text).is_err(), "{text}");
        }
    }
}

//! The types of TLS settings.

use std::path::PathBuf;

use tokio_rustls::rustls::pki_types::ServerName;
use toml::de::DeValue;

use super::schema::shape::Shape;
use super::value::{Value, shown};
use crate::net::tls::names::server_name;

/// One or several paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths(pub Vec<PathBuf>);

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(pub ServerName<'static>);

impl Value for Paths {
    const EXPECTED: &str =
        r#"a path in quotes, or a list of paths; write it like "ca.pem" or ["ca.pem", "/etc/ssl/certs"]"#;
    const SHAPE: Shape = Shape::OneOrMany("a path");

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
    const SHAPE: Shape = Shape::Text("a name of a certificate");

    fn from_text(text: &str) -> Result<Self, String> {
        server_name(text).map(Self).ok_or_else(|| format!("{text:?} is not {}", Self::EXPECTED))
    }
}

//! Checks where and for whom respgate offers control.

use std::path::PathBuf;

use super::super::model::ControlConfig;
use super::super::report::{Place, Report};
use super::super::schema::{ProcessDefaults, ProcessKeys};
use super::super::setting::Setting;
use super::tls;
use crate::net::tls::Loaded;
use crate::net::tls::server::{ServerProfile, ServerSet};
use crate::rotation::source::ControlToken;

/// Checks the keys of control. Reads the token.
pub(super) fn check(keys: &ProcessKeys, report: &mut Report) -> ControlConfig {
    ControlConfig {
        socket: keys.control_socket.value().cloned(),
        token: token(&keys.control_token_file, keys.admin.value().is_some(), report),
        read_token: token(&keys.read_token_file, keys.admin.value().is_some(), report),
        shutdown_endpoint: shutdown_endpoint(keys, report),
    }
}

fn shutdown_endpoint(keys: &ProcessKeys, report: &mut Report) -> bool {
    match &keys.shutdown_endpoint {
        Setting::Given(true, place) if keys.admin.value().is_none() => {
            report.error(
                place,
                r#"there is no admin listener that could serve /shutdown; set admin = "127.0.0.1:9121""#,
            );
            false
        }
        setting => setting.clone().or(ProcessDefaults::shutdown_endpoint()),
    }
}

/// Checks TLS of the admin listener. Reads the certificate and its key.
pub(super) fn admin_tls(
    keys: &ProcessKeys,
    file: Option<&Place>,
    report: &mut Report,
) -> Option<Loaded<ServerProfile, ServerSet>> {
    let place = keys.admin_tls_cert.place().or(keys.admin_tls_key.place())?;
    if keys.admin.value().is_none() {
        report.error(place, r#"there is no admin listener that could use it; set admin = "127.0.0.1:9121", or leave this out"#);
        return None;
    }
    let table = file.unwrap_or(place);
    tls::admin(keys.admin_tls_cert.clone(), keys.admin_tls_key.clone(), table, report)
}

fn token(file: &Setting<PathBuf>, has_admin: bool, report: &mut Report) -> Option<ControlToken> {
    let Setting::Given(path, place) = file else { return None };
    if !has_admin {
        report.error(
            place,
            r#"there is no admin listener that could use the token; set admin = "127.0.0.1:9121", or leave this out and use control-socket"#,
        );
        return None;
    }
    match ControlToken::read(path.clone()) {
        Ok(token) => {
            if let Some(warning) = token.warning() {
                report.warn(place, warning);
            }
            Some(token)
        }
        Err(why) => {
            report.error(place, why);
            None
        }
    }
}

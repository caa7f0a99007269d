//! Checks TLS settings and reads the files that they name: certificates, keys, authorities.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::report::{Place, Report};
use super::super::schema::{ClientTlsDefaults, ClientTlsKeys, ServerTlsDefaults, ServerTlsKeys};
use super::super::setting::Setting;
use super::super::tls::Paths;
use crate::net::tls::certificate::shown_span;
use crate::net::tls::client::{ClientProfile, ClientSet};
use crate::net::tls::names::Names;
use crate::net::tls::server::{ClientCertificates, ServerProfile, ServerSet};
use crate::net::tls::trust::Trust;
use crate::net::tls::{LoadError, Loaded, Part};
use crate::topology::Address;

/// respgate warns about a certificate that expires within this time.
pub const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Checks a listener's TLS settings. Returns `None` if they mean plain text or have an error.
pub(super) fn listener(
    typed: ServerTlsKeys,
    table: &Place,
    report: &mut Report,
) -> Option<Loaded<ServerProfile, ServerSet>> {
    let places = Places {
        chain: typed.cert.place().cloned(),
        key: typed.key.place().cloned(),
        trust: typed.client_ca.place().cloned(),
        crl: typed.crl.place().cloned(),
        table: table.clone(),
    };
    let pair = match pair(typed.cert, typed.key, ["tls-cert", "tls-key"], table, report) {
        Pair::Given(chain, key) => (chain, key),
        Pair::Invalid => return None,
        Pair::Absent => {
            let useless = [
                places.trust.as_ref(),
                typed.client_auth.place(),
                places.crl.as_ref(),
                typed.min_version.place(),
                typed.handshake_timeout.place(),
            ];
            for place in useless.into_iter().flatten() {
                report.error(
                    place,
                    "this listener speaks plain text; set tls-cert and tls-key, or leave it out",
                );
            }
            return None;
        }
    };
    let clients = match (&typed.client_auth, &places.trust) {
        (Setting::Invalid, _) => return None,
        (Setting::Given(clients, place), None) if *clients != ClientCertificates::Ignored => {
            report.error(place, "needs tls-client-ca: the authorities that sign clients' certificates");
            return None;
        }
        (Setting::Given(ClientCertificates::Ignored, _), Some(place)) => {
            report.error(place, "means nothing with tls-client-auth = \"none\"; leave one out");
            return None;
        }
        (Setting::Given(clients, _), _) => *clients,
        (Setting::Absent, Some(_)) => ClientCertificates::Required,
        (Setting::Absent, None) => ClientCertificates::Ignored,
    };
    if let (Some(place), ClientCertificates::Ignored) = (&places.crl, clients) {
        report.error(
            place,
            "revokes clients' certificates, and clients are not asked for any; set tls-client-ca",
        );
        return None;
    }
    let profile = ServerProfile {
        chain: pair.0,
        key: pair.1,
        clients,
        trust: Trust {
            paths: typed.client_ca.or(Paths(Vec::new())).0,
            system: false,
            revoked: typed.crl.or(Paths(Vec::new())).0,
        },
        floor: typed.min_version.or(ServerTlsDefaults::min_version()),
        handshake_timeout: typed
            .handshake_timeout
            .at_least(Duration::from_millis(10), "10ms", report)
            .or(ServerTlsDefaults::handshake_timeout()),
    };
    load(profile, &places, report)
}

/// Loads the files of a listener. Reports an error, or that a certificate expires soon.
fn load(
    profile: ServerProfile,
    places: &Places,
    report: &mut Report,
) -> Option<Loaded<ServerProfile, ServerSet>> {
    match profile.load(None) {
        Ok(set) => {
            places.warn_of_expiry(Some(set.not_after), report);
            Some(Loaded { profile, set })
        }
        Err(error) => {
            places.report(&error, report);
            None
        }
    }
}

/// Checks the TLS settings of the admin listener. Returns `None` if they have an error, or there are none.
pub(super) fn admin(
    cert: Setting<PathBuf>,
    key: Setting<PathBuf>,
    table: &Place,
    report: &mut Report,
) -> Option<Loaded<ServerProfile, ServerSet>> {
    let places = Places {
        chain: cert.place().cloned(),
        key: key.place().cloned(),
        trust: None,
        crl: None,
        table: table.clone(),
    };
    let Pair::Given(chain, key) = pair(cert, key, ["admin-tls-cert", "admin-tls-key"], table, report) else {
        return None;
    };
    let profile = ServerProfile {
        chain,
        key,
        clients: ClientCertificates::Ignored,
        trust: Trust { paths: Vec::new(), system: false, revoked: Vec::new() },
        floor: ServerTlsDefaults::min_version(),
        handshake_timeout: ServerTlsDefaults::handshake_timeout(),
    };
    load(profile, &places, report)
}

/// Checks the TLS settings of one leg to servers. `prefix` is the prefix of its keys, and `scheme`
/// is what the URL says about TLS. The settings `wider` apply where this leg has none of its own.
/// Returns `None` if they mean plain text or have an error.
pub(super) fn leg(
    typed: &ClientTlsKeys,
    wider: Option<&ClientTlsKeys>,
    scheme: bool,
    prefix: &str,
    nat: &HashMap<Address, Address>,
    table: &Place,
    report: &mut Report,
) -> Option<Loaded<ClientProfile, ClientSet>> {
    let on = match &typed.on {
        Setting::Given(on, _) => *on,
        Setting::Invalid => return None,
        Setting::Absent => scheme,
    };
    if let Some(place) = typed.on.place()
        && scheme
        && !on
        && wider.is_none()
    {
        report.error(place, "the url asks for TLS; begin it with redis instead of rediss, or leave this out");
        return None;
    }
    if !on {
        for place in typed.places() {
            let text = format!(
                "this connection is in plain text; set {prefix}tls = true (or begin the url with rediss), or leave it out"
            );
            report.error(place, text);
        }
        return None;
    }
    // The settings about authorities are taken from one leg as a whole, and so are a certificate
    // and its key.
    let own_trust =
        [typed.ca.is_absent(), typed.system_roots.is_absent(), typed.crl.is_absent()].contains(&false);
    let trust = wider.filter(|_| !own_trust).unwrap_or(typed);
    let own_pair = !typed.cert.is_absent() || !typed.key.is_absent();
    let owner = wider.filter(|_| !own_pair).unwrap_or(typed);
    let places = Places {
        chain: owner.cert.place().cloned(),
        key: owner.key.place().cloned(),
        trust: trust.ca.place().cloned(),
        crl: trust.crl.place().cloned(),
        table: typed.on.place().unwrap_or(table).clone(),
    };
    let [chain_key, key_key] = ["cert", "key"].map(|end| format!("{prefix}tls-{end}"));
    let names_of_keys = [&*chain_key, &*key_key];
    let identity = match pair(owner.cert.clone(), owner.key.clone(), names_of_keys, table, report) {
        Pair::Given(chain, key) => Some((chain, key)),
        Pair::Absent => None,
        Pair::Invalid => return None,
    };
    let unverified = typed.unverified.clone().or(ClientTlsDefaults::unverified());
    if unverified {
        let useless = [
            typed.ca.place(),
            typed.system_roots.place(),
            typed.crl.place(),
            typed.server_name.place(),
            typed.server_names.place(),
        ];
        for place in useless.into_iter().flatten() {
            report.error(
                place,
                format!("means nothing with {prefix}tls-dangerously-skip-verification = true; leave one out"),
            );
        }
        if let Some(place) = typed.unverified.place() {
            report.warn(
                place,
                "whoever stands between respgate and the server can read and change everything; name the server's \
                 authority with tls-ca instead",
            );
        }
    }
    let profile = ClientProfile {
        trust: Trust {
            paths: trust.ca.clone().or(Paths(Vec::new())).0,
            system: trust.system_roots.clone().or(trust.ca.is_absent()),
            revoked: trust.crl.clone().or(Paths(Vec::new())).0,
        },
        identity,
        floor: typed
            .min_version
            .or_else(&wider.map(|wider| wider.min_version.clone()).unwrap_or_default())
            .or(ClientTlsDefaults::min_version()),
        names: names(typed, nat),
        dangerously_unverified: unverified,
    };
    if trust.ca.is_invalid() || trust.crl.is_invalid() {
        return None;
    }
    match profile.load() {
        Ok(set) => {
            places.warn_of_expiry(set.not_after, report);
            Some(Loaded { profile, set })
        }
        Err(error) => {
            // The error is reported whatever the other leg says. If respgate ignored it, this leg
            // would speak plain text.
            places.report(&error, report);
            None
        }
    }
}

/// Returns the servers' names by the address that respgate connects to: the address that Sentinels
/// announce, and the address that the NAT map gives for it.
fn names(typed: &ClientTlsKeys, nat: &HashMap<Address, Address>) -> Names {
    let mut by_address = HashMap::new();
    for (address, name) in typed.server_names.value().into_iter().flatten() {
        by_address.insert(address.clone(), name.0.clone());
        if let Some(dialled) = nat.get(address) {
            by_address.insert(dialled.clone(), name.0.clone());
        }
    }
    Names { all: typed.server_name.value().map(|name| name.0.clone()), by_address: Arc::new(by_address) }
}

enum Pair {
    Absent,
    Invalid,
    Given(PathBuf, PathBuf),
}

/// Returns the paths of a certificate and its key. One without the other is an error.
fn pair(
    chain: Setting<PathBuf>,
    key: Setting<PathBuf>,
    [chain_key, key_key]: [&str; 2],
    table: &Place,
    report: &mut Report,
) -> Pair {
    match (chain, key) {
        (Setting::Given(chain, _), Setting::Given(key, _)) => Pair::Given(chain, key),
        (Setting::Absent, Setting::Absent) => Pair::Absent,
        (Setting::Given(_, place), Setting::Absent) => {
            report.error(
                &beside(&place, table, key_key),
                format!("is missing; {chain_key} needs its private key"),
            );
            Pair::Invalid
        }
        (Setting::Absent, Setting::Given(_, place)) => {
            report.error(
                &beside(&place, table, chain_key),
                format!("is missing; {key_key} needs its certificate"),
            );
            Pair::Invalid
        }
        _ => Pair::Invalid,
    }
}

/// Returns where a missing key belongs: in the table, or next to the flag that was given.
fn beside(given: &Place, table: &Place, key: &str) -> Place {
    match given {
        Place::File { .. } => table.sub_key(key),
        other => other.clone(),
    }
}

/// Where the parts of a profile were typed.
struct Places {
    chain: Option<Place>,
    key: Option<Place>,
    trust: Option<Place>,
    crl: Option<Place>,
    table: Place,
}

impl Places {
    fn report(&self, error: &LoadError, report: &mut Report) {
        let place = match error.part {
            Part::Chain => &self.chain,
            Part::Key => &self.key,
            Part::Trust => &self.trust,
            Part::Crl => &self.crl,
        };
        let place = place.as_ref().unwrap_or(&self.table);
        // Legs share settings. An error in a shared setting is reported once.
        if !report.errors.iter().any(|known| known.place == *place && known.text == error.text) {
            report.error(place, error.text.clone());
        }
    }

    fn warn_of_expiry(&self, not_after: Option<SystemTime>, report: &mut Report) {
        let left = not_after.and_then(|end| end.duration_since(SystemTime::now()).ok());
        if let (Some(left), Some(place)) = (left.filter(|left| *left < EXPIRES_SOON), &self.chain) {
            report.warn(place, format!("the certificate expires in {}; renew it", shown_span(left)));
        }
    }
}

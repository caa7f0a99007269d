//! Assigns a client to a tenant: the first rule that matches decides. No I/O.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::config::TenantConfig;
use super::members::CertificateRule;
use crate::net::tls::certificate::CertificateIdentity;

/// Identifies one of the configured tenants, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TenantId(pub usize);

/// Holds what the system and the client's certificate vouch for before the client says anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientAttributes {
    /// The names in the client's certificate. Verified, and unchanged by AUTH and RESET. Boxed, since few clients
    /// have one.
    pub certificate: Option<Box<CertificateIdentity>>,
    /// The client's address. For a client behind a trusted proxy, the address that the proxy reports.
    pub address: Option<IpAddr>,
    /// The user at the other end of a unix socket.
    pub uid: Option<u32>,
}

/// Holds what is known of one client now.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// See [`ClientAttributes`].
    pub identity: &'a ClientAttributes,
    /// The user that the client has authenticated as.
    pub user: Option<&'a str>,
    /// The tenant that the client's listener names.
    pub listener: Option<TenantId>,
    /// The client's name by CLIENT SETNAME.
    pub name: &'a [u8],
}

/// Holds the rules of all tenants.
#[derive(Debug, Default)]
pub struct Rules {
    certificates: Vec<(CertificateRule, TenantId)>,
    users: HashMap<String, TenantId>,
    /// In order of the narrowest network first.
    networks: Vec<(IpNet, TenantId)>,
    uids: HashMap<u32, TenantId>,
    /// In order of the longest prefix first.
    client_names: Vec<(Box<[u8]>, TenantId)>,
    default: Option<TenantId>,
}

impl Rules {
    /// Creates the rules of a configuration in which no rule occurs twice.
    pub fn new(tenants: &[TenantConfig]) -> Self {
        let mut rules = Self::default();
        for (at, tenant) in tenants.iter().enumerate() {
            let (id, members) = (TenantId(at), &tenant.members);
            rules.certificates.extend(members.certificates.iter().map(|rule| (rule.clone(), id)));
            rules.users.extend(members.users.iter().map(|user| (user.clone(), id)));
            rules.networks.extend(members.networks.iter().map(|network| (network.trunc(), id)));
            rules.uids.extend(members.uids.iter().map(|uid| (*uid, id)));
            rules.client_names.extend(members.client_names.iter().map(|name| (name.as_bytes().into(), id)));
            if members.default {
                rules.default = Some(id);
            }
        }
        rules.networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        rules.client_names.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        rules
    }

    /// Returns the client's tenant. The first match decides, in this order: certificate, authenticated user,
    /// source network, unix user, listener, client name, default.
    pub fn decide(&self, known: &Known<'_>) -> Option<TenantId> {
        self.by_certificate(known)
            .or_else(|| known.user.and_then(|user| self.users.get(user).copied()))
            .or_else(|| self.by_network(known.identity.address?))
            .or_else(|| self.uids.get(&known.identity.uid?).copied())
            .or(known.listener)
            .or_else(|| self.by_name(known.name))
            .or(self.default)
    }

    fn by_certificate(&self, known: &Known<'_>) -> Option<TenantId> {
        let names = known.identity.certificate.as_ref()?;
        self.certificates.iter().find(|(rule, _)| rule.matches(names)).map(|(_, id)| *id)
    }

    fn by_network(&self, address: IpAddr) -> Option<TenantId> {
        // A client that reaches an IPv6 socket over IPv4 has a mapped address: compare its IPv4 address.
        let address = address.to_canonical();
        self.networks.iter().find(|(network, _)| network.contains(&address)).map(|(_, id)| *id)
    }

    fn by_name(&self, name: &[u8]) -> Option<TenantId> {
        self.client_names.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::members::MembersConfig;

    fn tenant(name: &str, members: MembersConfig) -> TenantConfig {
        TenantConfig { name: name.into(), members, ..TenantConfig::default() }
    }

    fn rules() -> Rules {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Rules::new(&[
            tenant(
                "certified",
                MembersConfig {
                    certificates: ["CN:shop", "DNS:shop.example", "URI:spiffe://x/shop"]
                        .map(|text| CertificateRule::parse(text).unwrap())
                        .into(),
                    ..MembersConfig::default()
                },
            ),
            tenant("user", MembersConfig { users: vec!["app".into()], ..MembersConfig::default() }),
            tenant("wide", MembersConfig { networks: networks(&["10.0.0.0/8"]), ..MembersConfig::default() }),
            tenant(
                "narrow",
                MembersConfig {
                    networks: networks(&["10.1.0.0/16", "2001:db8::/32"]),
                    ..MembersConfig::default()
                },
            ),
            tenant("uid", MembersConfig { uids: vec![1000], ..MembersConfig::default() }),
            tenant("listener", MembersConfig::default()),
            tenant("named", MembersConfig { client_names: vec!["job-".into()], ..MembersConfig::default() }),
            tenant(
                "longer",
                MembersConfig { client_names: vec!["job-9".into()], ..MembersConfig::default() },
            ),
            tenant("rest", MembersConfig { default: true, ..MembersConfig::default() }),
        ])
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = rules();
        let mut identity = ClientAttributes {
            certificate: Some(Box::new(CertificateIdentity {
                common_name: Some("shop".into()),
                ..CertificateIdentity::default()
            })),
            address: Some("10.1.2.3".parse().unwrap()),
            uid: Some(1000),
        };
        let (mut user, mut listener, mut name) = (Some("app"), Some(TenantId(5)), &b"job-91"[..]);
        let decide = |identity: &ClientAttributes, user, listener, name| {
            rules.decide(&Known { identity, user, listener, name }).map(|id| id.0)
        };
        assert_eq!(decide(&identity, user, listener, name), Some(0));
        identity.certificate = Some(Box::default());
        assert_eq!(decide(&identity, user, listener, name), Some(1));
        user = Some("nobody");
        assert_eq!(decide(&identity, user, listener, name), Some(3));
        identity.address = Some("10.2.2.3".parse().unwrap());
        assert_eq!(decide(&identity, user, listener, name), Some(2));
        identity.address = None;
        assert_eq!(decide(&identity, user, listener, name), Some(4));
        identity.uid = Some(1001);
        assert_eq!(decide(&identity, user, listener, name), Some(5));
        listener = None;
        assert_eq!(decide(&identity, user, listener, name), Some(7));
        name = b"job-1";
        assert_eq!(decide(&identity, user, listener, name), Some(6));
        name = b"";
        assert_eq!(decide(&identity, user, listener, name), Some(8));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_is_itself() {
        let identity = ClientAttributes {
            address: Some("::ffff:10.1.0.1".parse().unwrap()),
            ..ClientAttributes::default()
        };
        let known = Known { identity: &identity, user: None, listener: None, name: b"" };
        assert_eq!(rules().decide(&known), Some(TenantId(3)));
    }
}

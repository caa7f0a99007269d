//! The names that servers' certificates must contain.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::ServerName;

use crate::topology::Address;

/// Holds the names that servers must prove. A clone is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The name for every server that has no name of its own in `by_address`.
    pub all: Option<ServerName<'static>>,
    /// Names by the address that respgate connects to.
    pub by_address: Arc<HashMap<Address, ServerName<'static>>>,
}

impl Names {
    /// Returns the name that a server must prove: the server's own, else the one for all servers,
    /// else the host of the address. Returns `None` for a unix socket, and for a host that no
    /// certificate can name.
    pub fn of(&self, address: &Address) -> Option<ServerName<'static>> {
        if let Some(name) = self.by_address.get(address).or(self.all.as_ref()) {
            return Some(name.clone());
        }
        match address {
            Address::Tcp { host, .. } => server_name(host),
            Address::Unix(_) => None,
        }
    }
}

/// Parses a host name or IP address as a certificate contains it. The final dot of an absolute name
/// is dropped.
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_own_name_wins() {
        let address = |host| Address::tcp(host, 6379);
        let name = |text| server_name(text).unwrap();
        let own = Arc::new(HashMap::from([(address("10.0.0.5"), name("node-a.example"))]));
        let names = Names { all: None, by_address: own.clone() };
        assert_eq!(names.of(&address("10.0.0.5")), Some(name("node-a.example")));
        assert_eq!(names.of(&address("10.0.0.6")), Some(name("10.0.0.6")));
        assert_eq!(names.of(&address("db.example.")), Some(name("db.example")));
        let names = Names { all: Some(name("db.example")), by_address: own };
        assert_eq!(names.of(&address("10.0.0.5")), Some(name("node-a.example")));
        assert_eq!(names.of(&address("10.0.0.6")), Some(name("db.example")));
        assert_eq!(Names::default().of(&Address::Unix("/s".into())), None);
        assert_eq!(Names::default().of(&address("not_a_host!")), None);
    }
}

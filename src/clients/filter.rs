//! Selects clients by the filters of CLIENT LIST and CLIENT KILL.

use std::collections::BTreeSet;

use super::row::{ClientKind, ClientRow};

/// Selects clients. The default selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// ID and NOT-ID.
    pub ids: Test<BTreeSet<u64>>,
    /// TYPE and NOT-TYPE.
    pub kind: Test<ClientKind>,
    /// ADDR and NOT-ADDR.
    pub addr: Test<Text>,
    /// LADDR and NOT-LADDR.
    pub laddr: Test<Text>,
    /// IP and NOT-IP.
    pub ip: Test<Text>,
    /// USER and NOT-USER.
    pub user: Test<Text>,
    /// NAME and NOT-NAME.
    pub name: Test<Text>,
    /// LIB-NAME and NOT-LIB-NAME.
    pub lib_name: Test<Text>,
    /// LIB-VER and NOT-LIB-VER.
    pub lib_ver: Test<Text>,
    /// FLAGS and NOT-FLAGS: the letters of flags.
    pub flags: Test<Text>,
    /// CAPA and NOT-CAPA: the letters of capabilities. A client of respgate has none.
    pub capa: Test<Text>,
    /// DB and NOT-DB.
    pub db: Test<u32>,
    /// MAXAGE: the least age in seconds.
    pub max_age: Option<u64>,
    /// IDLE: the least idle time in seconds.
    pub idle: Option<u64>,
    /// SKIPME: true leaves out the client that asks.
    pub skip_me: Option<bool>,
}

/// A text to compare a client's attribute with.
pub type Text = Box<[u8]>;

/// A filter and its negation. `None` selects all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test<T> {
    /// The client must match this.
    pub is: Option<T>,
    /// The client must not match this.
    pub not: Option<T>,
}

impl<T> Default for Test<T> {
    fn default() -> Self {
        Self { is: None, not: None }
    }
}

impl<T> Test<T> {
    fn admits(&self, matches: impl Fn(&T) -> bool) -> bool {
        self.is.as_ref().is_none_or(&matches) && !self.not.as_ref().is_some_and(matches)
    }
}

impl Filter {
    /// Returns true if the filter selects the client. SKIPME is left to the caller, who knows which client asks.
    pub fn selects(&self, row: &ClientRow<'_>) -> bool {
        // As on the server, an empty text equals no attribute, not even an empty one.
        let text = |test: &Test<Text>, value: &[u8]| {
            test.admits(|wanted| !value.is_empty() && wanted.as_ref() == value)
        };
        let letters = |test: &Test<Text>, flags: &str| {
            test.admits(|wanted| wanted.iter().all(|letter| flags.as_bytes().contains(letter)))
        };
        self.max_age.is_none_or(|least| row.age >= least)
            && self.idle.is_none_or(|least| row.idle >= least)
            && self.ids.admits(|ids| ids.contains(&row.id))
            && self.kind.admits(|kind| *kind == ClientKind::of(&row.flags))
            && text(&self.addr, row.addr.as_bytes())
            && text(&self.laddr, row.laddr.as_bytes())
            && text(&self.ip, ip_of(row.addr).as_bytes())
            && text(&self.user, row.user.as_bytes())
            && text(&self.name, row.name)
            && text(&self.lib_name, row.lib_name)
            && text(&self.lib_ver, row.lib_ver)
            && letters(&self.flags, &row.flags)
            && letters(&self.capa, "")
            && self.db.admits(|db| *db == row.db)
    }

    /// Returns the ids that the client must have one of, if the filter names any.
    pub fn wanted_ids(&self) -> Option<&BTreeSet<u64>> {
        self.ids.is.as_ref()
    }
}

/// Returns the host of an address with a port.
fn ip_of(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::super::row::sample;
    use super::*;

    fn is<T>(value: T) -> Test<T> {
        Test { is: Some(value), not: None }
    }

    fn not<T>(value: T) -> Test<T> {
        Test { is: None, not: Some(value) }
    }

    fn text(value: &str) -> Text {
        value.as_bytes().into()
    }

    #[test]
    fn each_attribute_is_compared_and_negated() {
        let all = Filter::default;
        for (filter, selects) in [
            (all(), true),
            (Filter { ids: is([7].into()), ..all() }, true),
            (Filter { ids: is([8].into()), ..all() }, false),
            (Filter { ids: not([7, 9].into()), ..all() }, false),
            (Filter { kind: is(ClientKind::Normal), ..all() }, true),
            (Filter { kind: not(ClientKind::Normal), ..all() }, false),
            (Filter { addr: is(text("127.0.0.1:4000")), ..all() }, true),
            (Filter { addr: is(text("127.0.0.1")), ..all() }, false),
            (Filter { laddr: not(text("127.0.0.1:6379")), ..all() }, false),
            (Filter { ip: is(text("127.0.0.1")), ..all() }, true),
            (Filter { user: is(text("Default")), ..all() }, false),
            (Filter { name: is(text("worker")), ..all() }, true),
            (Filter { name: is(text("")), ..all() }, false),
            (Filter { name: not(text("")), ..all() }, true),
            (Filter { lib_name: is(text("redis-py")), ..all() }, true),
            (Filter { lib_ver: not(text("6")), ..all() }, false),
            (Filter { flags: is(text("b")), ..all() }, true),
            (Filter { flags: is(text("bx")), ..all() }, false),
            (Filter { flags: not(text("bx")), ..all() }, true),
            (Filter { flags: is(text("")), ..all() }, true),
            (Filter { capa: is(text("r")), ..all() }, false),
            (Filter { capa: not(text("r")), ..all() }, true),
            (Filter { db: is(2), ..all() }, true),
            (Filter { db: not(2), ..all() }, false),
            (Filter { max_age: Some(20), ..all() }, true),
            (Filter { max_age: Some(21), ..all() }, false),
            (Filter { idle: Some(3), ..all() }, true),
            (Filter { idle: Some(4), ..all() }, false),
            (Filter { db: is(2), idle: Some(4), ..all() }, false),
        ] {
            assert_eq!(filter.selects(&sample()), selects, "{filter:?}");
        }
    }

    #[test]
    fn an_empty_name_matches_nothing_as_on_the_server() {
        let nameless = ClientRow { name: b"", ..sample() };
        assert!(!Filter { name: is(text("")), ..Filter::default() }.selects(&nameless));
        assert!(Filter { name: not(text("")), ..Filter::default() }.selects(&nameless));
    }

    #[test]
    fn the_host_of_an_address() {
        assert_eq!(ip_of("[::1]:5"), "::1");
        assert_eq!(ip_of("/run/x.sock:0"), "/run/x.sock");
    }
}

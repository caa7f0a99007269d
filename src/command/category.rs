//! The ACL categories of every command, as valkey 9.1 and redis 8.10 report them (`ACL CAT`). The
//! read, write, admin, dangerous, blocking, fast and slow categories follow from a command's flags,
//! as in the server (acl.c, ACLSetCommandCategoryBits). This file lists the others.

use super::spec::{Flags, Spec};

/// A set of categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Categories(u32);

/// The names of all categories: first those that every server has, in the order of `ACL CAT`, then
/// those of newer servers.
const NAMES: [&str; 22] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
    "array",
];

const KEYSPACE: Categories = Categories(1);
const READ: Categories = Categories(1 << 1);
const WRITE: Categories = Categories(1 << 2);
const SET: Categories = Categories(1 << 3);
const SORTEDSET: Categories = Categories(1 << 4);
const LIST: Categories = Categories(1 << 5);
const HASH: Categories = Categories(1 << 6);
const STRING: Categories = Categories(1 << 7);
const BITMAP: Categories = Categories(1 << 8);
const HYPERLOGLOG: Categories = Categories(1 << 9);
const GEO: Categories = Categories(1 << 10);
const STREAM: Categories = Categories(1 << 11);
const PUBSUB: Categories = Categories(1 << 12);
const ADMIN: Categories = Categories(1 << 13);
const FAST: Categories = Categories(1 << 14);
const SLOW: Categories = Categories(1 << 15);
const BLOCKING: Categories = Categories(1 << 16);
const DANGEROUS: Categories = Categories(1 << 17);
const CONNECTION: Categories = Categories(1 << 18);
const TRANSACTION: Categories = Categories(1 << 19);
const SCRIPTING: Categories = Categories(1 << 20);
const ARRAY: Categories = Categories(1 << 21);

impl Categories {
    /// Returns the names of all categories without the `@`, in the servers' order.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// Returns the category of this name, given without the `@` and in any case.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().position(|known| known.eq_ignore_ascii_case(name)).map(|index| Self(1 << index))
    }

    /// Returns the categories of a command. It is slow: use it for configuration, not on the data
    /// path.
    pub fn of(spec: &Spec) -> Self {
        let listed = |names: &str| names.split_ascii_whitespace().any(|name| name == spec.name);
        let listed = MEMBERS.iter().filter(|(_, names)| listed(names)).fold(0, |all, (one, _)| all | one.0);
        let has = |flag| spec.flags.contains(flag);
        let implied = [
            // Scripts are not in @read, though some only read.
            (has(Flags::READONLY) && listed & SCRIPTING.0 == 0, READ),
            (has(Flags::WRITE), WRITE),
            (has(Flags::ADMIN), ADMIN),
            (has(Flags::ADMIN) || has(Flags::DANGEROUS), DANGEROUS),
            (has(Flags::BLOCKING), BLOCKING),
            (has(Flags::FAST), FAST),
            (!has(Flags::FAST), SLOW),
        ];
        Self(implied.iter().filter(|(holds, _)| *holds).fold(listed, |all, (_, one)| all | one.0))
    }

    /// Returns the names of the set's categories, without the `@`.
    pub fn members(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(index, _)| self.0 & (1 << index) != 0).map(|(_, name)| *name)
    }

    /// Returns true if the set has every category of `other`.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The commands of each category that does not follow from a flag.
#[rustfmt::skip]
const MEMBERS: [(Categories, &str); 16] = [
    (KEYSPACE, "\
        CLUSTERSCAN CLUSTER|FLUSHSLOT COPY DBSIZE DEL DUMP EXISTS EXPIRE EXPIREAT EXPIRETIME FLUSHALL \
        FLUSHDB KEYS MIGRATE MOVE OBJECT|ENCODING OBJECT|FREQ OBJECT|HELP OBJECT|IDLETIME OBJECT|REFCOUNT \
        PERSIST PEXPIRE PEXPIREAT PEXPIRETIME PTTL RANDOMKEY RENAME RENAMENX RESTORE RESTORE-ASKING SCAN \
        SWAPDB TOUCH TRIMSLOTS TTL TYPE UNLINK"),
    (SET, "\
        SADD SCARD SDIFF SDIFFCARD SDIFFSTORE SINTER SINTERCARD SINTERSTORE SISMEMBER SMEMBERS SMISMEMBER \
        SMOVE SORT SORT_RO SPOP SRANDMEMBER SREM SSCAN SUNION SUNIONCARD SUNIONSTORE"),
    (SORTEDSET, "\
        BZMPOP BZPOPMAX BZPOPMIN SORT SORT_RO ZADD ZCARD ZCOUNT ZDIFF ZDIFFSTORE ZINCRBY ZINTER ZINTERCARD \
        ZINTERSTORE ZLEXCOUNT ZMPOP ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE \
        ZRANGESTORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX \
        ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION ZUNIONSTORE"),
    (LIST, "\
        BLMOVE BLMOVEM BLMPOP BLPOP BRPOP BRPOPLPUSH LINDEX LINSERT LLEN LMOVE LMOVEM LMPOP LPOP LPOS \
        LPUSH LPUSHX LRANGE LREM LSET LTRIM RPOP RPOPLPUSH RPUSH RPUSHX SORT SORT_RO"),
    (HASH, "\
        HDEL HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETALL HGETDEL HGETEX HIMPORT HIMPORT|DISCARD \
        HIMPORT|DISCARDALL HIMPORT|PREPARE HIMPORT|SET HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET \
        HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSET HSETEX HSETNX HSTRLEN HTTL \
        HVALS"),
    (STRING, "\
        APPEND DECR DECRBY DELEX DELIFEQ DIGEST GET GETDEL GETEX GETRANGE GETSET INCR INCRBY INCRBYFLOAT \
        INCREX LCS MGET MSET MSETEX MSETNX PSETEX SET SETEX SETNX SETRANGE STRLEN SUBSTR"),
    (BITMAP, "\
        BITCOUNT BITFIELD BITFIELD_RO BITOP BITPOS GETBIT SETBIT"),
    (HYPERLOGLOG, "\
        PFADD PFCOUNT PFDEBUG PFMERGE PFSELFTEST"),
    (GEO, "\
        GEOADD GEODIST GEOHASH GEOPOS GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEORADIUS_RO \
        GEOSEARCH GEOSEARCHSTORE"),
    (STREAM, "\
        XACK XACKDEL XADD XAUTOCLAIM XCFGSET XCLAIM XDEL XDELEX XGROUP|CREATE XGROUP|CREATECONSUMER \
        XGROUP|DELCONSUMER XGROUP|DESTROY XGROUP|HELP XGROUP|SETID XIDMPRECORD XINFO|CONSUMERS \
        XINFO|GROUPS XINFO|HELP XINFO|STREAM XLEN XNACK XPENDING XRANGE XREAD XREADGROUP XREVRANGE XSETID \
        XTRIM"),
    (PUBSUB, "\
        PSUBSCRIBE PUBLISH PUBSUB|CHANNELS PUBSUB|NUMPAT PUBSUB|NUMSUB PUBSUB|SHARDCHANNELS \
        PUBSUB|SHARDNUMSUB PUNSUBSCRIBE SPUBLISH SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE UNSUBSCRIBE"),
    (ADMIN, "\
        LASTSAVE ROLE"),
    (CONNECTION, "\
        ASKING AUTH CLIENT|CACHING CLIENT|CAPA CLIENT|GETNAME CLIENT|GETREDIR CLIENT|HELP CLIENT|ID \
        CLIENT|IMPORT-SOURCE CLIENT|INFO CLIENT|KILL CLIENT|LIST CLIENT|NO-EVICT CLIENT|NO-TOUCH \
        CLIENT|PAUSE CLIENT|REPLY CLIENT|SETINFO CLIENT|SETNAME CLIENT|TRACKING CLIENT|TRACKINGINFO \
        CLIENT|UNBLOCK CLIENT|UNPAUSE COMMAND COMMAND|COUNT COMMAND|DOCS COMMAND|GETKEYS \
        COMMAND|GETKEYSANDFLAGS COMMAND|HELP COMMAND|INFO COMMAND|LIST ECHO HELLO PING QUIT READONLY \
        READWRITE RESET SELECT WAIT WAITAOF"),
    (TRANSACTION, "\
        DISCARD EXEC MULTI UNWATCH WATCH"),
    (SCRIPTING, "\
        EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO FUNCTION|DELETE FUNCTION|DUMP FUNCTION|FLUSH \
        FUNCTION|HELP FUNCTION|KILL FUNCTION|LIST FUNCTION|LOAD FUNCTION|RESTORE FUNCTION|STATS SCRIPT|DEBUG \
        SCRIPT|EXISTS SCRIPT|FLUSH SCRIPT|HELP SCRIPT|KILL SCRIPT|LOAD SCRIPT|SHOW"),
    (ARRAY, "\
        ARCOUNT ARDEL ARDELRANGE ARGET ARGETRANGE ARGREP ARINFO ARINSERT ARLASTITEMS ARLEN ARMGET ARMSET \
        ARNEXT AROP ARRING ARSCAN ARSEEK ARSET"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{TABLE, lookup};

    #[test]
    fn every_member_is_a_command() {
        for name in MEMBERS.iter().flat_map(|(_, names)| names.split_ascii_whitespace()) {
            assert!(TABLE.iter().any(|spec| spec.name == name), "{name}");
        }
    }

    #[test]
    fn categories_follow_flags_and_lists() {
        let of = |name: &str| Categories::of(lookup(name.as_bytes()).unwrap());
        let named = |names: &[&str]| {
            Categories(names.iter().fold(0, |all, name| all | Categories::named(name).unwrap().0))
        };
        assert_eq!(of("GET"), named(&["read", "STRING", "fast"]));
        assert_eq!(of("KEYS"), named(&["keyspace", "read", "slow", "dangerous"]));
        assert_eq!(of("EVAL_RO"), named(&["slow", "scripting"]));
        assert_eq!(of("ROLE"), named(&["admin", "fast", "dangerous"]));
        assert!(Categories::named("all").is_none());
    }
}

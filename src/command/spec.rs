//! The properties of one command in the table.

/// One row of the table.
#[derive(Debug)]
pub struct Spec {
    /// Name in upper case; `CONTAINER|SUBCOMMAND` for a subcommand.
    pub name: &'static str,
    /// Identifies a command that respgate treats specially.
    pub verb: Verb,
    /// Number of arguments including the name. A negative arity is a minimum: -2 means at least 2.
    pub arity: i8,
    /// The command's route to the server.
    pub route: RouteClass,
    /// Whether the command may be sent again.
    pub retry: Retry,
    /// The state that the command can leave on the connection that ran it.
    pub trace: Trace,
    /// Further properties.
    pub flags: Flags,
    /// Index of the row in the table.
    pub row: u16,
}

impl Spec {
    /// Returns true if the command only reads data, so that a replica answers it as the primary would. Commands about the node itself,
    /// such as OBJECT and MEMORY, and TOUCH, whose effect stays on the node, are none of these; nor is XINFO, because a replica does not
    /// know when consumers have asked in vain, and programs remove those that seem idle.
    pub fn reads_data(&self) -> bool {
        let about_node = ["OBJECT|", "MEMORY|", "XINFO|", "TOUCH", "PFCOUNT"]
            .iter()
            .any(|name| self.name.starts_with(name));
        self.flags.contains(Flags::READONLY.and(Flags::KEYED))
            && self.retry == Retry::Safe
            && matches!(self.verb, Verb::Other)
            && !about_node
    }
}

/// The route of a command to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteClass {
    /// respgate answers the command from session state; [`Spec::verb`] says which.
    Virtual,
    /// The command is pipelined on the connection that all sessions of a worker share.
    Shared,
    /// The command gets a connection of the session's own until its reply.
    Lease,
    /// As `Lease` if a BLOCK option comes before STREAMS, else as `Shared`.
    LeaseIfBlock,
    /// The command gets a connection of the session's own until the state that it creates has
    /// ended.
    Pin,
    /// The command goes to a connection that does not wait for the server (SCRIPT KILL).
    SideConnection,
    /// respgate answers with the error that a server without that feature would send.
    LocalError,
    /// The command is administrative. respgate refuses it, or leases a connection if the listener
    /// allows it.
    Admin,
}

/// Whether a command that was written but not answered may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The command changes nothing.
    Safe,
    /// The command may have run, and a second run would change the result.
    Never,
    /// A second run leaves the same state and gives the same reply.
    SameReply,
    /// A second run leaves the same state, but its reply differs.
    ReplyDiffers,
    /// The options decide between `SameReply`, `ReplyDiffers` and `Never`.
    ByOptions,
}

/// The state that a command can leave on the connection that ran it, also if the command failed or
/// ran in a transaction. `Nothing` and `Followed` are the allow-list: a connection that ran
/// anything else serves no other client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// No state: the connection is as before.
    Nothing,
    /// State that respgate tracks. The server's own reply confirms its end.
    Followed,
    /// Other or unknown state.
    Unknown,
    /// Another protocol: the server stops answering each request with one reply. respgate never
    /// forwards such a command.
    OtherProtocol,
}

/// Properties of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// No property.
    pub const NONE: Self = Self(0);
    /// The command changes data.
    pub const WRITE: Self = Self(1);
    /// The command only reads data.
    pub const READONLY: Self = Self(1 << 1);
    /// The command can block its connection.
    pub const BLOCKING: Self = Self(1 << 2);
    /// The command is not allowed in scripts.
    pub const NOSCRIPT: Self = Self(1 << 3);
    /// The server counts the command as administrative.
    pub const ADMIN: Self = Self(1 << 4);
    /// The command is costly or destructive (`@dangerous` and not administrative).
    pub const DANGEROUS: Self = Self(1 << 5);
    /// The command has keys among its arguments.
    pub const KEYED: Self = Self(1 << 6);
    /// The command takes constant or logarithmic time.
    pub const FAST: Self = Self(1 << 7);
    /// The command may propagate to replicas without being a write.
    pub const MAY_REPLICATE: Self = Self(1 << 8);
    /// A user's code writes the reply, so its bytes, including error codes, can be forged.
    pub const SCRIPT: Self = Self(1 << 9);
    /// The command has subcommands.
    pub const CONTAINER: Self = Self(1 << 10);
    /// The command is allowed before authentication.
    pub const NO_AUTH: Self = Self(1 << 11);
    /// The command is not queued inside MULTI.
    pub const NO_MULTI: Self = Self(1 << 12);

    /// Returns the union of the two sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns true if the set has every property of `other`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Names the commands that respgate treats specially.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Any other command.
    Other,
    /// CLUSTER and its subcommands.
    Cluster,
    /// SENTINEL and its subcommands.
    Sentinel,
    /// ACL WHOAMI.
    AclWhoami,
    /// ASKING.
    Asking,
    /// AUTH.
    Auth,
    /// BLMOVE.
    Blmove,
    /// BLMOVEM.
    Blmovem,
    /// BLMPOP.
    Blmpop,
    /// BLPOP.
    Blpop,
    /// BRPOP.
    Brpop,
    /// BRPOPLPUSH.
    Brpoplpush,
    /// BZMPOP.
    Bzmpop,
    /// BZPOPMAX.
    Bzpopmax,
    /// BZPOPMIN.
    Bzpopmin,
    /// CLIENT CACHING.
    ClientCaching,
    /// CLIENT CAPA.
    ClientCapa,
    /// CLIENT GETNAME.
    ClientGetname,
    /// CLIENT HELP.
    ClientHelp,
    /// CLIENT ID.
    ClientId,
    /// CLIENT IMPORT-SOURCE.
    ClientImportSource,
    /// CLIENT INFO.
    ClientInfo,
    /// CLIENT KILL.
    ClientKill,
    /// CLIENT LIST.
    ClientList,
    /// CLIENT MAINT_NOTIFICATIONS.
    ClientMaintNotifications,
    /// CLIENT NO-EVICT.
    ClientNoEvict,
    /// CLIENT NO-TOUCH.
    ClientNoTouch,
    /// CLIENT PAUSE.
    ClientPause,
    /// CLIENT REPLY.
    ClientReply,
    /// CLIENT SETINFO.
    ClientSetinfo,
    /// CLIENT SETNAME.
    ClientSetname,
    /// CLIENT TRACKING.
    ClientTracking,
    /// CLIENT UNBLOCK.
    ClientUnblock,
    /// CLIENT UNPAUSE.
    ClientUnpause,
    /// CONFIG GET.
    ConfigGet,
    /// DISCARD.
    Discard,
    /// ECHO.
    Echo,
    /// EVAL.
    Eval,
    /// EVALSHA.
    Evalsha,
    /// EVALSHA_RO.
    EvalshaRo,
    /// EVAL_RO.
    EvalRo,
    /// EXEC.
    Exec,
    /// FUNCTION KILL.
    FunctionKill,
    /// HELLO.
    Hello,
    /// HIMPORT DISCARDALL.
    HimportDiscardall,
    /// HIMPORT PREPARE.
    HimportPrepare,
    /// INFO.
    Info,
    /// MONITOR.
    Monitor,
    /// MULTI.
    Multi,
    /// PING.
    Ping,
    /// PSUBSCRIBE.
    Psubscribe,
    /// PUNSUBSCRIBE.
    Punsubscribe,
    /// QUIT.
    Quit,
    /// READONLY.
    Readonly,
    /// READWRITE.
    Readwrite,
    /// RESET.
    Reset,
    /// SCAN, HSCAN, SSCAN and ZSCAN.
    Scan,
    /// SCRIPT KILL.
    ScriptKill,
    /// SCRIPT LOAD.
    ScriptLoad,
    /// SELECT.
    Select,
    /// SET.
    Set,
    /// SSUBSCRIBE.
    Ssubscribe,
    /// SUBSCRIBE.
    Subscribe,
    /// SUNSUBSCRIBE.
    Sunsubscribe,
    /// UNSUBSCRIBE.
    Unsubscribe,
    /// UNWATCH.
    Unwatch,
    /// WAIT.
    Wait,
    /// WAITAOF.
    Waitaof,
    /// WATCH.
    Watch,
    /// XREAD.
    Xread,
    /// XREADGROUP.
    Xreadgroup,
}

#[cfg(test)]
mod tests {
    use super::super::table::TABLE;

    #[test]
    fn replicas_get_no_command_about_the_node() {
        let of = |name: &str| TABLE.iter().find(|spec| spec.name == name).unwrap().reads_data();
        for name in ["GET", "MGET", "HGETALL", "ZRANGE", "XRANGE", "XPENDING", "SORT_RO", "TTL"] {
            assert!(of(name), "{name}");
        }
        let others = "SET GETEX SORT TOUCH PFCOUNT SCAN HSCAN XREAD XINFO|CONSUMERS OBJECT|IDLETIME MEMORY|USAGE EVAL_RO KEYS \
                      DBSIZE RANDOMKEY PING WAIT";
        for name in others.split_whitespace() {
            assert!(!of(name), "{name}");
        }
    }
}

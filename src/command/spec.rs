//! What the table says of one command.

use super::{Retry, RouteClass, Trace};

/// One row of the table.
#[derive(Debug)]
pub struct Spec {
    /// Upper case; `CONTAINER|SUBCOMMAND` for a subcommand.
    pub name: &'static str,
    /// Which command it is, where respgate treats it in a way of its own.
    pub verb: Verb,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i8,
    /// How it is carried.
    pub route: RouteClass,
    /// Whether it may be sent again.
    pub retry: Retry,
    /// What it can leave on the connection that ran it.
    pub trace: Trace,
    /// What else is known of it.
    pub flags: Flags,
    /// Its place in the table.
    pub row: u16,
}

/// Properties of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// No property.
    pub const NONE: Self = Self(0);
    /// Changes data.
    pub const WRITE: Self = Self(1);
    /// Reads data only.
    pub const READONLY: Self = Self(1 << 1);
    /// Can block its connection.
    pub const BLOCKING: Self = Self(1 << 2);
    /// Not allowed in scripts.
    pub const NOSCRIPT: Self = Self(1 << 3);
    /// Administrative, for the server.
    pub const ADMIN: Self = Self(1 << 4);
    /// Costly or destructive (`@dangerous` and not administrative).
    pub const DANGEROUS: Self = Self(1 << 5);
    /// Has keys among its arguments.
    pub const KEYED: Self = Self(1 << 6);
    /// Constant or logarithmic time.
    pub const FAST: Self = Self(1 << 7);
    /// May propagate to replicas without being a write.
    pub const MAY_REPLICATE: Self = Self(1 << 8);
    /// Its reply is written by a user's code, so its bytes, error codes among them, can be forged.
    pub const SCRIPT: Self = Self(1 << 9);
    /// Has subcommands.
    pub const CONTAINER: Self = Self(1 << 10);
    /// Allowed before authentication.
    pub const NO_AUTH: Self = Self(1 << 11);
    /// Not queued inside MULTI.
    pub const NO_MULTI: Self = Self(1 << 12);

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A command that respgate treats in a way of its own.
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
    /// CLIENT NO-EVICT.
    ClientNoEvict,
    /// CLIENT NO-TOUCH.
    ClientNoTouch,
    /// CLIENT REPLY.
    ClientReply,
    /// CLIENT SETINFO.
    ClientSetinfo,
    /// CLIENT SETNAME.
    ClientSetname,
    /// CLIENT TRACKING.
    ClientTracking,
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

//! Tells which commands are about the server as a whole. Both listeners (`admin-commands`) and
//! tenants' policies ask this module, so that neither lets a command through that the other knows
//! to be administrative.

use super::spec::{Flags, RouteClass, Spec};

/// What an administrative command does to the server, or shows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Administration {
    /// The command is not administrative.
    None,
    /// CONFIG GET: its arguments decide what it shows.
    ShowsParameters,
    /// The command shows the state of the server, but nothing of what a user did.
    ShowsState,
    /// The command shows the commands of all users, including keys and values.
    ShowsCommands,
    /// The command stops or forgets the scripts of all clients. The server does not count it as
    /// administrative.
    ActsOnScripts,
    /// The command shows clients of respgate, or acts on them. A client of a tenant reaches only its tenant's.
    ConcernsClients,
    /// The command changes the server, resets its measurements, acts on other clients, or shows
    /// their data.
    Acts,
}

impl Spec {
    /// Returns what the command does to the server as a whole.
    pub fn administration(&self) -> Administration {
        match self.name {
            "CONFIG|GET" => Administration::ShowsParameters,
            "LATENCY|DOCTOR" | "LATENCY|GRAPH" | "LATENCY|HISTOGRAM" | "LATENCY|HISTORY"
            | "LATENCY|LATEST" | "MODULE|LIST" => Administration::ShowsState,
            "SLOWLOG|GET" | "SLOWLOG|LEN" | "COMMANDLOG|GET" | "COMMANDLOG|LEN" => {
                Administration::ShowsCommands
            }
            "CLIENT|LIST" | "CLIENT|KILL" | "CLIENT|UNBLOCK" => Administration::ConcernsClients,
            "SCRIPT|FLUSH" | "SCRIPT|KILL" | "FUNCTION|KILL" => Administration::ActsOnScripts,
            // The server does not set its admin flag for MEMORY PURGE and SCRIPT DEBUG.
            _ if self.route == RouteClass::Admin || self.flags.contains(Flags::ADMIN) => Administration::Acts,
            _ => Administration::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TABLE;
    use super::*;

    #[test]
    fn administrative_routes_and_flags_are_administrative() {
        for spec in &TABLE {
            let known = spec.administration() != Administration::None;
            assert!(known || spec.route != RouteClass::Admin, "{}", spec.name);
            assert!(known || !spec.flags.contains(Flags::ADMIN), "{}", spec.name);
        }
        let unflagged = TABLE.iter().filter(|spec| {
            spec.administration() == Administration::Acts && !spec.flags.contains(Flags::ADMIN)
        });
        let names: Vec<&str> = unflagged.map(|spec| spec.name).collect();
        assert_eq!(names, ["MEMORY|PURGE", "SCRIPT|DEBUG"]);
    }

    /// A command whose name says that it resets, purges or stops something is administrative,
    /// writes keys, or is about the client's own connection.
    #[test]
    fn no_command_that_resets_passes_for_harmless() {
        const WORDS: [&str; 10] =
            ["RESET", "PURGE", "FLUSH", "KILL", "SHUTDOWN", "PAUSE", "REWRITE", "SAVE", "LOAD", "DEBUG"];
        let passes = TABLE.iter().filter(|spec| {
            let last = spec.name.rsplit('|').next().unwrap_or_default();
            WORDS.iter().any(|word| last.contains(word))
                && spec.administration() == Administration::None
                && !spec.flags.contains(Flags::WRITE)
        });
        let names: Vec<&str> = passes.map(|spec| spec.name).collect();
        // LASTSAVE reads a time, RESET is about the connection, and SCRIPT LOAD only adds a script.
        assert_eq!(names, ["LASTSAVE", "RESET", "SCRIPT|LOAD"]);
    }
}

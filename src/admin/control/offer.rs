//! Describes the actions of control for `/status`, so that the status page can offer them.

use serde_json::{Value, json};

use super::action::ACTION_NAMES;

/// What the status page shows of an action.
struct Offer {
    name: &'static str,
    title: &'static str,
    /// What happens, as a sentence that ends the question whether to do it.
    effect: &'static str,
    /// The argument that the page asks for, if there is one.
    argument: Option<Argument>,
}

/// An argument of an action.
struct Argument {
    name: &'static str,
    label: &'static str,
    /// The values that the page proposes. `None`: the names of the upstreams.
    proposals: Option<&'static [&'static str]>,
}

const UPSTREAM: Option<Argument> = Some(Argument { name: "upstream", label: "Upstream", proposals: None });

static OFFERS: [Offer; 8] = [
    Offer {
        name: "reload",
        title: "Reload configuration",
        effect: "respgate reads its configuration file now. If the file has an error, nothing changes.",
        argument: None,
    },
    Offer {
        name: "log-level",
        title: "Change log level",
        effect: "The log has this level until the next restart.",
        argument: Some(Argument {
            name: "level",
            label: "Level",
            proposals: Some(&["error", "warn", "info", "debug", "trace"]),
        }),
    },
    Offer {
        name: "pause",
        title: "Pause",
        effect: "Commands to this upstream wait until you resume it. The pause ends by itself before hold-timeout.",
        argument: UPSTREAM,
    },
    Offer {
        name: "resume",
        title: "Resume",
        effect: "Commands to this upstream are sent again.",
        argument: UPSTREAM,
    },
    Offer {
        name: "reconnect",
        title: "Reconnect",
        effect: "respgate replaces its connections to this upstream. Clients do not notice.",
        argument: UPSTREAM,
    },
    Offer {
        name: "drain",
        title: "Drain",
        effect: "respgate accepts no new clients and ends each session. Only a restart ends the drain.",
        argument: None,
    },
    Offer {
        name: "upgrade",
        title: "Upgrade",
        effect: "A new process takes over the listeners; this one drains and ends. If the new one does not start, nothing changes.",
        argument: None,
    },
    Offer {
        name: "shutdown",
        title: "Shut down",
        effect: "respgate drains, and then the process ends. This page ends with it.",
        argument: None,
    },
];

/// Returns the actions that exist and that the page can offer.
pub(super) fn actions() -> Value {
    let known = OFFERS.iter().filter(|offer| ACTION_NAMES.contains(&offer.name));
    let actions = known.map(|offer| {
        json!({
            "name": offer.name,
            "title": offer.title,
            "effect": offer.effect,
            "argument": offer.argument.as_ref().map(|argument| json!({
                "name": argument.name,
                "label": argument.label,
                "proposals": argument.proposals,
            })),
        })
    });
    actions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_of_today_are_offered() {
        let names: Vec<Value> =
            actions().as_array().unwrap().iter().map(|offer| offer["name"].clone()).collect();
        assert!(["reload", "log-level", "drain", "shutdown"].iter().all(|name| names.contains(&json!(name))));
    }
}

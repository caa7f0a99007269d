//! From all that attackers did to the little that it takes.

use std::time::{Duration, Instant};

use crate::arena::Setting;
use crate::attacker::Deeds;
use crate::attacker::action::Action;
use crate::contest::{self, Attack};
use crate::round::Fault;
use crate::support::client::frame_length;

/// The last actions of one attacker that are tried: what matters is rarely older.
const TAIL: usize = 600;

/// A shorter story with a fault of its own.
pub struct Reproduction {
    pub actions: Vec<Action>,
    pub faults: Vec<Fault>,
}

/// Looks for one attacker whose last actions are enough, and leaves out what is not needed, until time is up.
pub fn shrink(setting: Setting, secret: &str, deeds: &[Deeds], time: Duration) -> Option<Reproduction> {
    let until = Instant::now() + time;
    let attempt = |actions: &[Action]| {
        let outcome = contest::run(setting, secret, Attack::Replay(actions.to_vec()));
        (!outcome.is_void && !outcome.faults.is_empty()).then_some(outcome.faults)
    };
    let mut found = None;
    for (name, done) in deeds {
        if Instant::now() > until {
            break;
        }
        let mut actions: Vec<Action> =
            done[done.len().saturating_sub(TAIL)..].iter().map(|(_, action)| action.clone()).collect();
        connect_first(&mut actions);
        let actions = actions.into_iter().flat_map(one_by_one).collect::<Vec<_>>();
        if let Some(faults) = attempt(&actions) {
            println!("  {name} alone is enough: {} actions", actions.len());
            found = Some(Reproduction { actions, faults });
            break;
        }
    }
    let mut found = found?;
    let mut size = found.actions.len().div_ceil(2);
    while size > 0 && Instant::now() < until {
        let mut at = 0;
        while at < found.actions.len() && Instant::now() < until {
            let mut fewer = found.actions.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            // Without its connection, what was sent on it is nothing.
            connect_first(&mut fewer);
            match attempt(&fewer) {
                Some(faults) => found = Reproduction { actions: fewer, faults },
                None => at += size,
            }
        }
        size /= 2;
    }
    Some(found)
}

/// Nothing can be done on a connection whose beginning is not kept.
fn connect_first(actions: &mut Vec<Action>) {
    let mut open = Vec::new();
    actions.retain(|action| match action {
        Action::Connect { slot, .. } => {
            open.push(*slot);
            true
        }
        Action::Send { slot, .. } | Action::Read { slot, .. } => open.contains(slot),
        Action::EndWrites { slot } | Action::Leave { slot, .. } => open.contains(slot),
        Action::Pause(_) => true,
    });
}

/// Commands that were sent together, each by itself; bytes that are no commands stay as they are.
fn one_by_one(action: Action) -> Vec<Action> {
    let Action::Send { slot, bytes } = &action else { return vec![action] };
    let mut commands = Vec::new();
    let mut rest = &bytes[..];
    while let Some(length) = frame_length(rest)
        && rest[0] == b'*'
    {
        commands.push(Action::Send { slot: *slot, bytes: rest[..length].into() });
        rest = &rest[length..];
    }
    if rest.is_empty() { commands } else { vec![action] }
}

//! Commands wait for any time, are sent or not at any look, and may come back: those of one client for one slot keep their order, and
//! nothing stays charged.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::latency::Arrival;
use crate::net::budget::Account;
use crate::net::buffers::Buffers;
use crate::resp::Resp;
use crate::upstream::shared::queue::IfLost;
use crate::upstream::tests::parts;

const CLIENTS: usize = 3;
const LIMIT: usize = 1 << 20;

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// A node has not run a command of this client for this slot. It may be sent again after a pause.
    Refuse { client: usize, slot: u16, pause: u64 },
    /// Time passes, and the commands that may be sent are looked at. Each bit says whether the next of them has a node.
    Look { passes: u64, takes: u32 },
    /// A node has not run a command either that was sent to it: the oldest or the newest one.
    Return { oldest: bool },
    /// A client leaves.
    Leave { client: usize },
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..CLIENTS, 0..2_u16, 0..50_u64)
            .prop_map(|(client, slot, pause)| Event::Refuse { client, slot, pause }),
        4 => (0..60_u64, any::<u32>()).prop_map(|(passes, takes)| Event::Look { passes, takes }),
        3 => any::<bool>().prop_map(|oldest| Event::Return { oldest }),
        1 => (0..CLIENTS).prop_map(|client| Event::Leave { client }),
    ]
}

fn in_local_set(
    test: impl FnOnce(ConnectionKey, Rc<Buffers>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let buffers = Rc::new(Buffers::alone(1 << 24));
        let (parts, _topology) = parts(buffers.clone());
        let key = ConnectionKey::new(parts.dialing.identities.own().clone(), 0, Resp::V2);
        test(key, buffers)
    })
}

fn command(
    replies: &Rc<Replies>,
    key: &ConnectionKey,
    number: usize,
    slot: u16,
    ready: Instant,
) -> WaitingCommand {
    replies.expect();
    let (mute, if_lost, arrival) = (false, IfLost::Resend, Arrival::default());
    let (replies, bytes) = (replies.redirected(), number.to_string().into_bytes());
    WaitingCommand {
        request: RedirectedRequest { replies, mute, if_lost, arrival, bytes },
        key: key.clone(),
        slot: Slot::new(slot),
        to: None,
        asks: false,
        origin: None,
        from: Generation(1),
        ready,
        deadline: ready + Duration::from_secs(40),
        why: Box::default(),
    }
}

fn number_of(command: &WaitingCommand) -> usize {
    std::str::from_utf8(&command.request.bytes).unwrap().parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn commands_of_one_client_for_one_slot_keep_their_order(events in prop::collection::vec(events(), 1..80)) {
        in_local_set(|key, buffers| {
            let clients: Vec<Rc<Replies>> = (0..CLIENTS)
                .map(|_| Replies::new(buffers.clone(), Account::new(buffers.share()), 1 << 20))
                .collect();
            let (mut waiting, mut now) = (WaitingCommands::default(), Instant::now());
            let mut due: HashMap<Series, BTreeSet<usize>> = HashMap::new();
            let mut sent: Vec<WaitingCommand> = Vec::new();
            for (number, event) in events.into_iter().enumerate() {
                match event {
                    Event::Refuse { client, slot, pause } => {
                        let ready = now + Duration::from_millis(pause);
                        let command = command(&clients[client], &key, number, slot, ready);
                        due.entry(command.series()).or_default().insert(number);
                        assert!(waiting.add(command, LIMIT).is_ok());
                    }
                    Event::Look { passes, mut takes } => {
                        now += Duration::from_millis(passes);
                        waiting.review(now, |command| {
                            assert!(command.ready <= now);
                            takes = takes.rotate_right(1);
                            if takes & 1 == 0 {
                                return Fate::Waits(command);
                            }
                            assert_eq!(due.get_mut(&command.series()).unwrap().pop_first(), Some(number_of(&command)));
                            takes = takes.rotate_right(1);
                            if takes & 1 == 0 {
                                command.request.fail(b"+\r\n");
                            } else {
                                sent.push(command);
                            }
                            Fate::Gone
                        });
                    }
                    Event::Return { oldest } => {
                        let at = if oldest { 0 } else { sent.len().saturating_sub(1) };
                        if at < sent.len() {
                            let command = sent.remove(at);
                            due.entry(command.series()).or_default().insert(number_of(&command));
                            assert!(waiting.add(command, LIMIT).is_ok());
                        }
                    }
                    Event::Leave { client } => clients[client].close(),
                }
            }
            sent.drain(..).for_each(|command| command.request.fail(b"+\r\n"));
            waiting.review(now + Duration::from_secs(1), |command| {
                command.request.fail(b"+\r\n");
                Fate::Gone
            });
            prop_assert!(waiting.is_empty() && waiting.bytes == 0);
            for client in &clients {
                prop_assert_eq!(client.awaited(), 0);
                client.close();
            }
            prop_assert_eq!(buffers.share().bytes(), 0, "bytes are charged for nobody");
            Ok(())
        })?;
    }
}

#[test]
fn what_waits_is_bounded() {
    in_local_set(|key, buffers| {
        let client = Replies::new(buffers.clone(), Account::new(buffers.share()), 1 << 20);
        let (mut waiting, now) = (WaitingCommands::default(), Instant::now());
        let added = (0..1000)
            .take_while(|number| waiting.add(command(&client, &key, *number, 1, now), 10_000).is_ok());
        let added = added.count();
        assert!((10..100).contains(&added), "{added}");
        Ok(())
    })
    .unwrap();
}

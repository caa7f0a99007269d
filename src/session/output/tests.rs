//! A session with several lanes that answer in any interleaving, in pieces, muted, or not at all: the client gets the replies in the
//! order of its commands. Clients follow each other and use each other's segments; lanes still answer those that have left.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Waker;

use proptest::prelude::*;
use tokio::io::AsyncWrite;

use super::*;
use crate::net::budget::Share;
use crate::net::buffers::Buffers;

const LANES: usize = 3;
const ERROR: &[u8] = b"(!)";

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// The client sends a command for a lane.
    Send { lane: usize, write: bool, mute: bool, size: usize },
    /// The client sends a command that respgate answers.
    Answer { size: usize },
    /// A lane delivers that many whole replies.
    Deliver { lane: usize, count: usize },
    /// A lane delivers a piece of a reply.
    Piece { lane: usize, size: usize },
    /// A lane loses its connection. Its requests are sent again.
    Lose { lane: usize },
    /// A lane answers that another one serves the command. With `asks`, a muted request goes before it there.
    Redirect { lane: usize, to: usize, asks: bool },
    /// A message is published.
    Message,
    /// The session runs, and the client takes that many bytes.
    Take { room: usize },
    /// `command-timeout` expires.
    Expire,
    /// The client leaves, and another one comes.
    Leave,
}

fn events() -> impl Strategy<Value = Event> {
    let (lane, size) = (0..LANES, prop_oneof![8 => 0..40_usize, 1 => 4000..9000_usize]);
    prop_oneof![
        12 => (lane.clone(), prop::bool::weighted(0.1), prop::bool::weighted(0.1), size.clone())
            .prop_map(|(lane, write, mute, size)| Event::Send { lane, write, mute, size }),
        4 => size.prop_map(|size| Event::Answer { size }),
        6 => (lane.clone(), 1..5_usize).prop_map(|(lane, count)| Event::Deliver { lane, count }),
        2 => (lane.clone(), 1..50_usize).prop_map(|(lane, size)| Event::Piece { lane, size }),
        1 => lane.prop_map(|lane| Event::Lose { lane }),
        3 => (0..LANES, 0..LANES, any::<bool>()).prop_map(|(lane, to, asks)| Event::Redirect { lane, to, asks }),
        2 => Just(Event::Message),
        5 => prop_oneof![Just(usize::MAX), 0..100_usize].prop_map(|room| Event::Take { room }),
        1 => Just(Event::Expire),
        1 => Just(Event::Leave),
    ]
}

/// A command on a lane.
struct Request {
    replies: Rc<Replies>,
    /// The index of the reply in `expected`. `None` for a request before a redirected command.
    reply: Option<usize>,
    text: Vec<u8>,
    write: bool,
    mute: bool,
    /// True if the session gave the reply up.
    given_up: bool,
    /// True if a lane has redirected the command.
    redirected: bool,
}

/// A client that takes at most `room` bytes.
#[derive(Default)]
struct Taking {
    taken: Vec<u8>,
    room: usize,
}

impl AsyncWrite for Taking {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Poll::Pending;
        }
        self.room -= count;
        self.taken.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Model {
    output: Output,
    buffers: Rc<Buffers>,
    share: Rc<Share>,
    spare: Rc<SpareSegments>,
    lanes: [VecDeque<Request>; LANES],
    /// The number of bytes that each lane has delivered of its front reply.
    pieces: [usize; LANES],
    /// The reply to each command, in order.
    expected: Vec<Vec<u8>>,
    messages: usize,
    client: Taking,
}

impl Model {
    fn new() -> Self {
        let buffers = Rc::new(Buffers::alone(1 << 30));
        let share = buffers.share().clone();
        let replies = Replies::new(buffers.clone(), Account::new(&share), 1 << 28);
        let (spare, lanes, pieces, expected): (Rc<SpareSegments>, _, _, _) = Default::default();
        let (output, client) = (Output::new(replies, spare.clone()), Taking::default());
        Self { output, buffers, share, spare, lanes, pieces, expected, messages: 0, client }
    }

    /// Returns the segments of the client.
    fn segments(&self) -> Vec<*const Replies> {
        self.output.segments.iter().map(|segment| Rc::as_ptr(&segment.replies)).collect()
    }

    /// Returns the next reply, of `size` bytes and its frame, and its index.
    fn next_reply(&mut self, size: usize, shown: bool) -> (usize, Vec<u8>) {
        let at = self.expected.len();
        let text = [format!("({at}:").into_bytes(), vec![b'.'; size], b")".to_vec()].concat();
        self.expected.push(if shown { text.clone() } else { Vec::new() });
        (at, text)
    }

    fn run(&mut self, event: Event) {
        match event {
            Event::Send { lane, write, mute, size } => self.send(lane, write, mute, size),
            Event::Answer { size } => {
                if self.output.admits_unsent(CommandKind::Answer) {
                    let (_, text) = self.next_reply(size, true);
                    self.output.answer(|out| out.extend_from_slice(&text));
                }
            }
            Event::Deliver { lane, count } => self.deliver(lane, count),
            Event::Piece { lane, size } => {
                if let Some(front) = self.lanes[lane].front().filter(|front| !front.mute) {
                    let from = self.pieces[lane];
                    let to = (from + size).min(front.text.len() - 1);
                    if to > from {
                        front.replies.deliver_part(&front.text[from..to]);
                        self.pieces[lane] = to;
                    }
                }
            }
            Event::Lose { lane } => self.lanes[lane].iter().for_each(|request| request.replies.lost()),
            Event::Redirect { lane, to, asks } => self.redirect(lane, to, asks),
            Event::Message => {
                self.messages += 1;
                self.output.replies.publish(b'<', b"m>");
            }
            Event::Take { room } => self.take(room),
            Event::Expire => self.expire(),
            Event::Leave => self.leave(),
        }
    }

    fn send(&mut self, lane: usize, write: bool, mute: bool, size: usize) {
        let kind = if write { CommandKind::Write } else { CommandKind::Read };
        let paused = self.output.replies.window(1) == 0;
        let moved = self.lanes.iter().flatten().any(|request| request.redirected && !request.given_up);
        assert_eq!(paused, moved, "a session sends nothing while a redirected command is under way");
        if paused {
            return;
        }
        let Some(path) = self.output.reply_path(LaneId::numbered(lane + 1), kind) else { return };
        for (other, requests) in self.lanes.iter().enumerate().filter(|(other, _)| *other != lane) {
            let overtaken = requests.iter().find(|request| !request.given_up && (request.write || write));
            assert!(overtaken.is_none(), "a command for lane {lane} overtakes one on lane {other}");
        }
        let (reply, text) = self.next_reply(size, !mute);
        let replies = self.output.replies_from(LaneId::numbered(lane + 1), kind, path).clone();
        replies.expect();
        let (reply, given_up, redirected) = (Some(reply), false, false);
        self.lanes[lane].push_back(Request { replies, reply, text, write, mute, given_up, redirected });
    }

    fn redirect(&mut self, lane: usize, to: usize, asks: bool) {
        if self.pieces[lane] > 0 {
            return;
        }
        let Some(mut request) = self.lanes[lane].pop_front() else { return };
        // The client has left the replies that the session gave up, and gets nothing for what came before the command.
        if request.reply.is_none() || request.given_up {
            return request.replies.swallow();
        }
        let replies = request.replies.redirected();
        if asks {
            replies.expect();
            let (replies, text) = (replies.clone(), Vec::new());
            let (reply, write, mute, given_up, redirected) = (None, false, true, false, true);
            self.lanes[to].push_back(Request { replies, reply, text, write, mute, given_up, redirected });
        }
        (request.replies, request.redirected) = (replies, true);
        self.lanes[to].push_back(request);
    }

    /// Delivers replies as the pump does: those that follow each other and belong to one client in one piece.
    fn deliver(&mut self, lane: usize, count: usize) {
        let mut piece: Option<(Rc<Replies>, Vec<u8>, u32, usize)> = None;
        for _ in 0..count {
            let Some(request) = self.lanes[lane].pop_front() else { break };
            let rest = &request.text[std::mem::take(&mut self.pieces[lane])..];
            let same = piece.as_ref().is_some_and(|(to, ..)| Rc::ptr_eq(to, &request.replies));
            if (request.mute || !same)
                && let Some((to, bytes, count, largest)) = piece.take()
            {
                to.deliver(&bytes, count, largest);
            }
            if request.mute {
                request.replies.swallow();
                continue;
            }
            let (_, bytes, count, largest) =
                piece.get_or_insert_with(|| (request.replies.clone(), Vec::new(), 0, 0));
            bytes.extend_from_slice(rest);
            *count += 1;
            *largest = (*largest).max(rest.len());
        }
        if let Some((to, bytes, count, largest)) = piece {
            to.deliver(&bytes, count, largest);
        }
    }

    fn take(&mut self, room: usize) {
        self.client.room = room;
        if self.output.advance() {
            assert!(self.output.ready() > 0 && self.output.awaited() > 0);
            assert!(!self.output.advance(), "the session waits once before it writes");
        }
        let _ = self.output.replies.poll_write_to(&mut Context::from_waker(Waker::noop()), &mut self.client);
    }

    fn expire(&mut self) {
        if self.output.is_partial() || self.output.replies.client_state() != ClientState::Open {
            return;
        }
        let account = self.output.replies.account().clone();
        self.output.give_up(Replies::new(self.buffers.clone(), account, 1 << 28), ERROR);
        for request in self.lanes.iter_mut().flatten().filter(|request| !request.given_up) {
            request.given_up = true;
            if let Some(reply) = request.reply {
                self.expected[reply] = ERROR.to_vec();
            }
        }
    }

    /// The client leaves without its last replies. The lanes still give them to it.
    fn leave(&mut self) {
        self.take(usize::MAX);
        let (received, expected) = (self.received().0, self.expected.concat());
        assert!(expected.starts_with(&received), "what a client got before it left is in order");
        self.output.close();
        self.lanes.iter_mut().flatten().for_each(|request| request.given_up = true);
        let replies = Replies::new(self.buffers.clone(), Account::new(&self.share), 1 << 28);
        self.output = Output::new(replies, self.spare.clone());
        (self.client, self.messages) = (Taking::default(), 0);
        self.expected.clear();
    }

    fn check(&self) {
        let due = self.lanes.iter().flatten().filter(|request| !request.given_up).count();
        assert_eq!(self.output.awaited() as usize, due, "replies due");
        assert!(self.output.ready() <= self.output.waiting());
        assert!(self.output.segments.len() <= MAX_SEGMENTS);
    }

    /// Returns what the client got without messages, and the number of messages.
    fn received(&self) -> (Vec<u8>, usize) {
        let (mut replies, mut messages, mut inside) = (Vec::new(), 0, false);
        for &byte in &self.client.taken {
            match byte {
                b'<' => {
                    assert!(!inside, "a message stands inside a reply");
                    messages += 1;
                }
                b'm' | b'>' => {}
                byte => {
                    inside = byte != b')';
                    replies.push(byte);
                }
            }
        }
        (replies, messages)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn replies_come_in_the_order_of_the_commands(events in prop::collection::vec(events(), 1..200)) {
        let mut model = Model::new();
        for event in events {
            model.run(event);
            model.check();
            if model.output.replies.client_state() != ClientState::Open {
                model.leave();
            }
        }
        (0..LANES).for_each(|lane| model.deliver(lane, usize::MAX));
        model.take(usize::MAX);
        let (received, messages) = model.received();
        let expected = model.expected.concat();
        prop_assert_eq!(String::from_utf8_lossy(&received), String::from_utf8_lossy(&expected));
        prop_assert_eq!(messages, model.messages);
        prop_assert_eq!((model.output.awaited(), model.output.waiting()), (0, 0));
        prop_assert!(model.output.segments.is_empty());
        model.output.close();
        model.lanes.iter_mut().for_each(VecDeque::clear);
        prop_assert_eq!(model.share.bytes(), 0, "bytes are charged for a client that left");
    }
}

/// Two redirected commands are under way, and the reply to the second has come, when the first one's reply is cut short.
#[test]
fn nothing_follows_a_reply_that_was_cut_short() {
    let mut model = Model::new();
    for lane in [1, 2, 2] {
        model.send(lane, false, false, 0);
    }
    for (lane, to) in [(2, 1), (1, 0), (2, 0), (1, 2)] {
        model.redirect(lane, to, false);
    }
    model.deliver(0, 2);
    model.run(Event::Piece { lane: 2, size: 1 });
    model.take(usize::MAX);
    model.run(Event::Lose { lane: 2 });
    assert_eq!(model.output.replies.client_state(), ClientState::Cut);
    model.deliver(2, 1);
    model.take(usize::MAX);
    assert_eq!(model.received().0, b"(0:)(");
}

#[test]
fn the_next_client_uses_the_segments_again() {
    let mut model = Model::new();
    let mut used = Vec::new();
    for round in 0..5 {
        for lane in [0, 1, 2, 1, 0] {
            model.send(lane, false, false, 10);
        }
        let segments = model.segments();
        assert_eq!((segments.len(), model.spare.len()), (4, 0));
        match round {
            0 => used = segments,
            _ => assert!(segments.iter().all(|segment| used.contains(segment)), "round {round} allocates"),
        }
        [1, 0, 2, 1, 0].into_iter().for_each(|lane| model.deliver(lane, 1));
        model.take(usize::MAX);
        assert_eq!((model.spare.len(), model.share.bytes()), (4, 0), "spare segments belong to nobody");
        assert_eq!(model.received().0, model.expected.concat());
        if round % 2 == 1 {
            model.leave();
        }
    }
    model.spare.trim();
    assert_eq!(model.spare.len(), 4, "they were used since the last call");
    model.spare.trim();
    assert_eq!(model.spare.len(), 0);
}

#[test]
fn a_segment_to_which_a_lane_may_deliver_is_not_used_again() {
    let mut model = Model::new();
    for lane in [0, 1, 2, 0] {
        model.send(lane, false, false, 10);
    }
    let kept = model.lanes[2][0].replies.clone();
    (0..LANES).for_each(|lane| model.deliver(lane, usize::MAX));
    model.take(usize::MAX);
    assert_eq!((model.spare.len(), model.output.segments.len()), (2, 0));
    for lane in [0, 1, 2, 0] {
        model.send(lane, false, false, 10);
    }
    assert!(!model.segments().contains(&Rc::as_ptr(&kept)));
    kept.deliver(b"late", 1, 4);
    model.expire();
    model.take(usize::MAX);
    assert_eq!(
        (model.spare.len(), model.output.segments.len()),
        (0, 0),
        "given up, and the lanes still deliver"
    );
    (0..LANES).for_each(|lane| model.deliver(lane, usize::MAX));
    model.take(usize::MAX);
    assert!(model.received().0.ends_with(&ERROR.repeat(4)));
}

#[test]
fn replies_wait_once_for_those_of_other_lanes() {
    let mut model = Model::new();
    for lane in [0, 1, 2, 0] {
        model.send(lane, false, false, 10);
    }
    model.deliver(1, 1);
    assert!(!model.output.advance(), "nothing is ready");
    model.deliver(0, 1);
    assert!(model.output.advance(), "replies of lanes 2 and 0 are due");
    model.deliver(2, 1);
    assert!(!model.output.advance());
    model.take(usize::MAX);
    assert_eq!(model.received().0, model.expected[..3].concat());
    model.deliver(0, 1);
    assert!(!model.output.advance(), "nothing else is due");
    model.send(0, false, false, 10);
    model.deliver(0, 1);
    assert!(!model.output.advance(), "one lane carries all");
}

#[test]
fn the_number_of_segments_is_bounded() {
    let mut model = Model::new();
    let mut answers = 0;
    loop {
        model.send(0, false, false, 1);
        if !model.output.admits_unsent(CommandKind::Answer) {
            break;
        }
        answers += 1;
        model.run(Event::Answer { size: 1 });
    }
    assert_eq!(answers, MAX_SEGMENTS);
    assert!(model.share.bytes() > 0, "segments are charged");
    assert!(model.share.bytes() < 64 * 1024, "{} bytes", model.share.bytes());
    model.deliver(0, usize::MAX);
    model.take(usize::MAX);
    assert!(model.output.admits_unsent(CommandKind::Answer));
    assert_eq!(model.received().0, model.expected.concat());
}

#[test]
fn parked_replies_count_against_the_limit_but_not_against_earlier_replies() {
    let mut model = Model::new();
    model.output.replies.set_limit(200);
    model.send(0, false, false, 10);
    model.send(1, false, false, 120);
    let (first, second) = (model.lanes[0][0].replies.clone(), model.lanes[1][0].replies.clone());
    model.deliver(1, 1);
    assert_eq!((first.waiting_before(), second.waiting_before() > 120), (0, true));
    assert_eq!((model.output.ready(), model.output.replies.client_state()), (0, ClientState::Open));
    model.send(1, false, false, 120);
    model.deliver(1, 1);
    assert_eq!(model.output.replies.client_state(), ClientState::Overflowed);
}

#[test]
fn parked_answers_do_not_count_against_the_limit() {
    let mut model = Model::new();
    model.output.replies.set_limit(200);
    model.send(0, false, false, 10);
    model.run(Event::Answer { size: 500 });
    model.send(0, false, false, 10);
    model.deliver(0, 2);
    assert_eq!(model.output.replies.client_state(), ClientState::Open);
    model.take(usize::MAX);
    assert_eq!((model.output.waiting(), model.received().0), (0, model.expected.concat()));
}

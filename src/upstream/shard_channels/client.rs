//! Connects one client with its links and its task: has channels follow their slots, and shows the client the outcome of its requests.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::book::{Book, LinkId, Name, Shown};
use super::links::Links;
use super::retry::Retries;
use crate::cluster::redirect::Redirect;
use crate::cluster::slot::Slot;
use crate::metrics::Gauged;
use crate::net::budget::Charge;
use crate::resp::Resp;
use crate::resp::error_line;
use crate::resp::pubsub::{Kind, Published, published};
use crate::upstream::connection::identity::Identity;
use crate::upstream::fanin::sink::{SubscriberEvent, SubscriberOwner, confirm};
use crate::upstream::replies::Replies;
use crate::upstream::shards::Shards;
use crate::upstream::shared::fair::fair_queue::Share;

/// The number of names that are confirmed before other tasks have their turn: some 0.3 ms of work.
const NAMES_PER_TURN: usize = 512;

/// The error line for a channel whose slot no shard serves.
const UNSERVED: &[u8] = b"-CLUSTERDOWN Hash slot not served";

/// What a client's task does next.
enum Next {
    /// Nothing, until there is an event.
    Wait,
    /// It goes on in its next turn.
    More,
    /// It goes on at this time.
    At(Instant),
}

/// What the client, its links and its task share.
pub(super) struct Client {
    /// For the links, which tell of their events.
    this: Weak<Client>,
    resp: Resp,
    pub(super) replies: RefCell<Rc<Replies>>,
    pub(super) book: RefCell<Book>,
    pub(super) links: Links,
    pub(super) retries: Retries,
    /// True while a task works for the client.
    working: Cell<bool>,
    news: Notify,
    /// The size of the open request, in bytes; `None` if there is none.
    pub(super) request: Cell<Option<usize>>,
    /// True if the client has left.
    pub(super) closed: Cell<bool>,
    /// True if the client does not want to see that the request is refused.
    pub(super) mute: Cell<bool>,
    charge: RefCell<Charge>,
    _gauge: Option<Gauged>,
}

impl Client {
    /// Creates the shared part of a client's channels. `gauge` counts the client while they exist.
    pub(super) fn new(
        shards: &Rc<Shards>,
        identity: &Rc<Identity>,
        (resp, replies): (Resp, &Rc<Replies>),
        private: Option<Share>,
        gauge: Option<Gauged>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            this: this.clone(),
            resp,
            replies: RefCell::new(replies.clone()),
            book: RefCell::new(Book::new(private.is_some())),
            links: Links::new(shards, identity, private),
            retries: Retries::default(),
            working: Cell::default(),
            news: Notify::new(),
            request: Cell::default(),
            closed: Cell::default(),
            mute: Cell::default(),
            charge: RefCell::new(Charge::new(replies.account())),
            _gauge: gauge,
        })
    }

    /// Ends all links, because the client has left. A task may hold the rest for a moment longer.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.news.notify_one();
        self.links.clear();
    }

    /// Shows the client what has become of its request, as far as that is known and a turn goes.
    pub(super) fn proceed(&self) {
        let mut book = self.book.borrow_mut();
        if !book.is_ready() && book.is_open() {
            return;
        }
        let over = book.proceed(NAMES_PER_TURN, |shown| self.show(&shown));
        if over && self.request.take().is_some() {
            self.replies.borrow().wake();
        }
        self.charge.borrow_mut().set(book.size() + self.request.get().unwrap_or(0));
    }

    pub(super) fn show(&self, shown: &Shown<'_>) {
        let replies = self.replies.borrow();
        match shown {
            Shown::Confirmed(begins, name, count) => {
                confirm(&replies, self.resp, (Kind::Shard, *begins), *name, *count);
            }
            Shown::Refused(line) if !self.mute.get() => {
                replies.answer(|out| error_line::write(out, line));
                replies.wake();
            }
            Shown::Refused(_) => {}
        }
    }

    /// Disconnects the client: it gets no messages of a channel any more, and the disconnection tells it so.
    fn lose(&self, line: &[u8]) {
        self.links.log_lost(line);
        self.replies.borrow().cut();
    }

    /// Takes note that a link has refused its request.
    fn note_refused(&self, link: LinkId, line: &[u8]) {
        let shard = self.links.shard(link);
        let (Some(redirect), Some(shard)) = (Redirect::of(line), shard) else {
            if !self.book.borrow_mut().refused(link, line) {
                self.lose(line);
            }
            return;
        };
        let names = self.book.borrow_mut().redirected(link);
        let known = match redirect {
            Redirect::Moved { slot, to } => {
                let now = self.links.shards().follow_moved(slot, &to, &shard);
                now.is_some_and(|now| !Rc::ptr_eq(&now, &shard))
            }
            Redirect::ClusterDown => {
                shard.hint_cluster_down();
                false
            }
            Redirect::Ask { .. } | Redirect::TryAgain => false,
        };
        if known && self.retries.hops() {
            self.book.borrow_mut().displace(names);
        } else {
            self.retries.wait(names, line);
        }
    }

    /// Gives channels their links, and has the links do what the book says. The client's task does what is left.
    pub(super) fn go_on(&self) {
        if !matches!(self.work(), Next::Wait) {
            self.go_on_later();
        }
    }

    /// As [`Self::go_on`], in the client's task: the table of a link may be borrowed now.
    fn go_on_later(&self) {
        if self.working.replace(true) {
            return self.news.notify_one();
        }
        let this = self.this.clone();
        self.links.spawn(async move {
            while let Some(client) = this.upgrade() {
                let next = if client.closed.get() { Next::Wait } else { client.work() };
                match next {
                    Next::Wait => return client.working.set(false),
                    Next::More => {
                        drop(client);
                        tokio::task::yield_now().await;
                    }
                    Next::At(time) => {
                        tokio::select! {
                            () = sleep_until(time) => {}
                            () = client.news.notified() => {}
                        }
                    }
                }
            }
        });
    }

    fn work(&self) -> Next {
        let due = self.retries.take_due();
        if !due.is_empty() {
            self.try_again(due);
        }
        loop {
            if self.book.borrow().has_displaced() {
                let unplaced = self.place();
                self.retries.wait(unplaced, UNSERVED);
            }
            let requests = self.book.borrow_mut().next_requests();
            if requests.is_empty() && !self.book.borrow().has_displaced() {
                break;
            }
            for (link, request) in requests {
                let owner: Weak<dyn SubscriberOwner> = self.this.clone();
                let replies = self.replies.borrow().clone();
                self.links.request(link, &request, (self.resp, &replies), owner);
            }
        }
        if self.book.borrow().is_ready() {
            self.proceed();
            return Next::More;
        }
        self.retries.next().map_or(Next::Wait, Next::At)
    }

    fn place(&self) -> Vec<Name> {
        let links = &self.links;
        self.book.borrow_mut().place(|name| links.at(&links.shards().of(Slot::of(name))))
    }

    /// Has channels try for a link again, or gives them up after `hold-timeout`.
    fn try_again(&self, names: Vec<Name>) {
        let (waited, line) = self.retries.waited();
        if waited <= self.links.hold_timeout() {
            return self.book.borrow_mut().displace(names);
        }
        let line = self.links.expired_error(waited, &line);
        if !self.book.borrow_mut().give_up(&names, &line) {
            self.lose(&line);
        }
        self.retries.reset();
        self.proceed();
    }
}

impl SubscriberOwner for Client {
    fn note(&self, number: LinkId, event: SubscriberEvent) {
        match event {
            SubscriberEvent::Moved(name) => self.book.borrow_mut().moved(number, &name),
            SubscriberEvent::Decided(None) => {
                let mut book = self.book.borrow_mut();
                book.answered(number);
                if book.is_calm() && self.retries.is_empty() {
                    self.retries.reset();
                }
            }
            SubscriberEvent::Settled => self.book.borrow_mut().settled(number),
            SubscriberEvent::Decided(Some(line)) => self.note_refused(number, &line),
        }
        // What the client asked for must be confirmed before any message of it is passed on.
        self.proceed();
        self.go_on_later();
    }

    fn admits(&self, frame: &[u8]) -> bool {
        match published(frame) {
            Published::Message(Kind::Shard, Some(name)) => self.book.borrow().has(name),
            _ => true,
        }
    }
}

//! Answers other workers' questions about the clients of one worker. A list is made in small steps, and other tasks run
//! between them, so that a list of many clients delays no session.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{spawn_local, yield_now};

use super::registry::SessionRegistry;
use super::view::ClientView;
use crate::clients::directory::{ErrorText, Figures, Killed, Query, Selection, Shape, Unblock};
use crate::clients::listing::{LINES_PER_STEP, LineSource, Lines};
use crate::upstream::Upstream;

/// Number of clients that one step looks at. A step takes about 0.1 ms.
const CLIENTS_PER_STEP: usize = LINES_PER_STEP;

/// The names of a worker's listeners, by their numbers. A reload changes them.
pub type ListenerNames = RefCell<BTreeMap<usize, String>>;

/// A worker's side of each upstream, by the upstreams' numbers. A reload changes it.
pub type UpstreamTable = RefCell<BTreeMap<usize, Rc<Upstream>>>;

/// What the answers are about.
pub struct Answerer {
    /// The number of the worker.
    pub worker: usize,
    /// The sessions of the worker.
    pub registry: Rc<SessionRegistry>,
    /// The worker's side of each upstream.
    pub upstreams: Rc<UpstreamTable>,
    /// The names of the listeners, by their numbers.
    pub listeners: Rc<ListenerNames>,
}

impl Answerer {
    /// Answers questions, one at a time, until nobody can ask any more.
    pub async fn serve(self, mut queries: mpsc::Receiver<Query>) {
        while let Some(query) = queries.recv().await {
            self.answer(query).await;
            yield_now().await;
        }
    }

    async fn answer(&self, query: Query) {
        match query {
            Query::List(selection, shape, answer) => self.list(&selection, shape, &answer).await,
            Query::Kill(selection, asker, answer) => {
                let _ = answer.send(self.kill(&selection, asker).await);
            }
            Query::Unblock(unblock, answer) => self.unblock(unblock, answer),
            Query::Connections(upstream, answer) => {
                let ids = self.upstream(upstream).map(|upstream| upstream.connection_ids());
                let _ = answer.send(ids.unwrap_or_default());
            }
            Query::ServerList(upstream, answer) => {
                if let Some(upstream) = self.upstream(upstream) {
                    // The server may take its time, and other questions must not wait for it.
                    spawn_local(async move {
                        let own = upstream.identities.own().clone();
                        let reply = upstream.ask(&own, &[b"CLIENT", b"LIST"]).await;
                        let _ = answer.send(match reply {
                            Ok(reply) => Ok(reply.bytes().unwrap_or_default().to_vec()),
                            Err(line) => Err(line.to_vec()),
                        });
                    });
                }
            }
            Query::Suspend(upstream, until) => {
                if let Some(upstream) = self.upstream(upstream) {
                    upstream.suspend_response_timeout(until);
                }
            }
            Query::Figures(upstream, answer) => {
                let _ = answer
                    .send(self.upstream(upstream).map(|upstream| figures(&upstream)).unwrap_or_default());
            }
        }
    }

    fn upstream(&self, number: usize) -> Option<Rc<Upstream>> {
        self.upstreams.borrow().get(&number).cloned()
    }

    /// Sends the lines of the selected clients.
    async fn list(&self, selection: &Selection, shape: Shape, answer: &mpsc::Sender<Lines>) {
        let mut last = None;
        loop {
            let mut lines = Lines::new(LineSource::Worker(self.worker));
            let more = self.step(
                selection,
                &mut last,
                |view, out| {
                    out.push(view.id, |line| self.write(view, shape, line));
                    !out.is_full()
                },
                &mut lines,
            );
            if !lines.ends.is_empty() && answer.send(lines).await.is_err() || !more {
                return;
            }
            yield_now().await;
        }
    }

    /// Looks at the next clients, in the order of their ids, and calls `visit` with each selected one until it returns
    /// false. `last` is the id of the last one that was looked at. Returns true if there may be more.
    fn step<T>(
        &self,
        selection: &Selection,
        last: &mut Option<u64>,
        mut visit: impl FnMut(&Rc<ClientView>, &mut T) -> bool,
        to: &mut T,
    ) -> bool {
        let views = self.registry.views.borrow();
        let now = self.registry.now.get();
        let after = (last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut seen = 0;
        let mut look = |id: u64, view: Option<&Rc<ClientView>>| {
            *last = Some(id);
            seen += 1;
            let Some(view) = view else { return true };
            let selected = view.is_within(selection.scope)
                && selection.except != Some(id)
                && selection
                    .tenant_name
                    .as_deref()
                    .is_none_or(|name| view.with_tenant_name(|tenant| tenant == name))
                && view.with_row(now, |row| selection.filter.selects(row));
            !selected || visit(view, to)
        };
        let went_on = match selection.filter.wanted_ids() {
            Some(ids) => ids.range(after).take(CLIENTS_PER_STEP).all(|id| look(*id, views.get(id))),
            None => views.range(after).take(CLIENTS_PER_STEP).all(|(id, view)| look(*id, Some(view))),
        };
        !went_on || seen == CLIENTS_PER_STEP
    }

    fn write(&self, view: &ClientView, shape: Shape, line: &mut Vec<u8>) {
        view.with_row(self.registry.now.get(), |row| row.write(line));
        if shape == Shape::Extended {
            let upstreams = self.upstreams.borrow();
            let upstream = upstreams.get(&view.upstream).map_or("", |upstream| &upstream.config.name);
            let names = self.listeners.borrow();
            let listener = names.get(&view.listener).map_or("", String::as_str);
            let worker = self.worker;
            view.with_tenant_name(|tenant| {
                line.extend_from_slice(
                    format!(" worker={worker} upstream={upstream} listener={listener} tenant={tenant}")
                        .as_bytes(),
                );
            });
        }
        line.push(b'\n');
    }

    async fn kill(&self, selection: &Selection, asker: Option<u64>) -> Killed {
        let mut killed = Killed::default();
        let mut last = None;
        loop {
            let more = self.step(
                selection,
                &mut last,
                |view, killed: &mut Killed| {
                    if asker == Some(view.id) {
                        killed.asker = true;
                    } else {
                        view.activity.kill();
                    }
                    killed.clients += 1;
                    true
                },
                &mut killed,
            );
            if !more {
                return killed;
            }
            yield_now().await;
        }
    }

    /// Has the server unblock the client's connection. The server decides whether the client is still blocked.
    fn unblock(&self, unblock: Unblock, answer: oneshot::Sender<Option<Result<bool, ErrorText>>>) {
        let views = self.registry.views.borrow();
        let Some(view) = views.get(&unblock.id).filter(|view| view.is_within(unblock.scope)).cloned() else {
            let _ = answer.send(None);
            return;
        };
        drop(views);
        let (Some((id, identity)), Some(upstream)) = (view.blocked_on(), self.upstream(view.upstream)) else {
            let _ = answer.send(Some(Ok(false)));
            return;
        };
        view.note_unblocking(true);
        spawn_local(async move {
            let _guard = Unblocking(view);
            let (id, reason) = (id.to_string(), if unblock.error { "ERROR" } else { "TIMEOUT" });
            // The user who asks needs the permission, not the user who is blocked.
            let as_whom = match &unblock.credentials {
                Some(known) => upstream.identities.of(known.username.as_deref(), known.password.expose()),
                None => upstream.identity_to_unblock(&identity).clone(),
            };
            let words: [&[u8]; 4] = [b"CLIENT", b"UNBLOCK", id.as_bytes(), reason.as_bytes()];
            let reply = upstream.ask(&as_whom, &words).await;
            let _ = answer.send(Some(match reply {
                Ok(reply) => Ok(reply.integer() == Some(1)),
                Err(line) => Err(line.to_vec()),
            }));
        });
    }
}

/// Counts a request to unblock a client's lease until it is dropped.
struct Unblocking(Rc<ClientView>);

impl Drop for Unblocking {
    fn drop(&mut self) {
        self.0.note_unblocking(false);
    }
}

fn figures(upstream: &Upstream) -> Figures {
    // A snapshot brings the gauges up to date.
    upstream.snapshot();
    let counters = &upstream.counters;
    Figures {
        clients: counters.clients.get(),
        pinned: counters.clients_pinned.get(),
        held: counters.clients_held.get(),
        subscribers: counters.fanin_subscribers.get(),
        connections: [
            counters.shared_open.get(),
            counters.leased_open.get(),
            counters.fanin_open.get(),
            counters.leased_idle.get(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::clients::filter::{Filter, Test};
    use crate::clients::listing::BYTES_PER_STEP;
    use crate::net::budget::{Account, Budget, Share};
    use crate::net::buffers::Buffers;
    use crate::session::activity::Activity;
    use crate::session::client::{Client, Origin};
    use crate::session::config::Timeouts;
    use crate::upstream::replies::Replies;

    fn answerer(clients: u64) -> Answerer {
        let registry = Rc::new(SessionRegistry::default());
        let share = Rc::new(Share::new(Budget::new(1 << 30, 1), 0));
        let buffers = Rc::new(Buffers::new(share.clone()));
        for id in 1..=clients {
            let account = Account::new(&share);
            let replies = Replies::new(buffers.clone(), account.clone(), 1 << 20);
            let activity = Activity::new(replies, Timeouts::default(), 0);
            let origin = Origin {
                id,
                peer: format!("127.0.0.1:{id}"),
                local: "127.0.0.1:6379".into(),
                known: crate::tenant::identity::ClientAttributes::default(),
            };
            let client = Client::new(origin, 0, None, &account);
            let view = ClientView::new(&client, (0, 0), &activity);
            registry.join(activity, view);
        }
        Answerer { worker: 0, registry, upstreams: Rc::default(), listeners: Rc::default() }
    }

    #[test]
    fn a_step_looks_at_a_bounded_number_of_clients() {
        let answerer = answerer(1000);
        let nobody = Selection { except: None, ..Selection::default() };
        let (mut last, mut steps, mut seen) = (None, 0, Vec::new());
        loop {
            let before = seen.len();
            let more = answerer.step(
                &nobody,
                &mut last,
                |view, seen: &mut Vec<u64>| {
                    seen.push(view.id);
                    true
                },
                &mut seen,
            );
            assert!(seen.len() - before <= CLIENTS_PER_STEP);
            steps += 1;
            if !more {
                break;
            }
        }
        assert_eq!(seen, (1..=1000).collect::<Vec<_>>(), "each once, in order");
        assert_eq!(steps, 1000 / CLIENTS_PER_STEP + 1);
    }

    #[test]
    fn a_step_looks_only_at_the_clients_whose_ids_are_wanted() {
        let answerer = answerer(1000);
        let ids = Test { is: Some([3, 500, 2000].into()), not: None };
        let filter = Arc::new(Filter { ids, ..Filter::default() });
        let selection = Selection { filter, ..Selection::default() };
        let mut seen = Vec::new();
        let visit = |view: &Rc<ClientView>, seen: &mut Vec<u64>| {
            seen.push(view.id);
            true
        };
        assert!(!answerer.step(&selection, &mut None, visit, &mut seen), "one step is enough");
        assert_eq!(seen, [3, 500]);
    }

    #[tokio::test]
    async fn a_list_comes_in_pieces_of_a_bounded_size() {
        let local = tokio::task::LocalSet::new();
        let listed = local.run_until(async {
            let answerer = answerer(500);
            let (answer, mut lines) = mpsc::channel(1);
            spawn_local(async move {
                answerer.list(&Selection::default(), Shape::Extended, &answer).await;
            });
            let mut ids = Vec::new();
            while let Some(some) = lines.recv().await {
                assert!(some.ends.len() <= CLIENTS_PER_STEP && some.bytes.len() < 2 * BYTES_PER_STEP);
                ids.extend(some.ends.iter().map(|(id, _)| *id));
            }
            ids
        });
        assert_eq!(listed.await, (1..=500).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_kill_reaches_all_but_the_client_that_asks() {
        let answerer = answerer(200);
        let killed = answerer.kill(&Selection::default(), Some(7)).await;
        assert_eq!(killed, Killed { clients: 200, asker: true });
        let views = answerer.registry.views.borrow();
        assert!(views.values().all(|view| view.activity.is_killed() == (view.id != 7)));
    }
}

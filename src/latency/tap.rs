//! Taps: live views of the commands that match a filter.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::config::ShownArguments;
use super::described::{Describer, Known};
use super::entry::{ClientLabel, Entry};
use super::ring::Ring;

/// Number of taps that may run at once.
pub const MAX_TAPS: usize = 4;

/// Interval at which a worker passes entries on to the readers of taps.
const INTERVAL: Duration = Duration::from_millis(100);

/// Says which commands a tap shows, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapFilter {
    /// Shows only commands of clients of this tenant.
    pub tenant: Option<String>,
    /// Shows only commands of clients with this id, address or name.
    pub client: Option<String>,
    /// Shows only commands of clients that act as this user.
    pub user: Option<String>,
    /// Shows only this command, in upper case; `CONTAINER|SUBCOMMAND` for a subcommand.
    pub command: Option<String>,
    /// Shows only commands whose first key begins with these bytes.
    pub key_prefix: Option<Vec<u8>>,
    /// Shows one of so many matching commands, chosen at random; 1 shows each.
    pub sample: u32,
    /// How keys and arguments are shown.
    pub arguments: ShownArguments,
}

/// Entries of one worker on their way to the reader of a tap.
#[derive(Debug)]
pub struct TapBatch {
    /// The entries, the oldest first.
    pub entries: Vec<Entry>,
    /// The number of matching commands that the worker dropped since the last batch, because the reader was too slow.
    pub dropped: u64,
}

impl TapFilter {
    fn admits_client(&self, client: &ClientLabel) -> bool {
        let named = |wanted: &String| {
            *wanted == client.id.to_string() || *wanted == client.address || *wanted == client.name
        };
        self.tenant.as_ref().is_none_or(|tenant| *tenant == client.tenant)
            && self.user.as_ref().is_none_or(|user| *user == client.user)
            && self.client.as_ref().is_none_or(named)
    }

    fn admits_request(&self, known: &Known<'_>, describer: &Describer) -> bool {
        self.command.as_ref().is_none_or(|wanted| known.spec().is_some_and(|spec| spec.name == wanted))
            && self.key_prefix.as_ref().is_none_or(|prefix| {
                describer.with_key(known, |key| key.starts_with(prefix)).unwrap_or_default()
            })
    }
}

/// One running tap.
struct Tap {
    filter: Arc<TapFilter>,
    ring: Ring,
}

/// The taps that run on one worker. A set of taps is a mask with one bit for each.
#[derive(Default)]
pub(super) struct Taps {
    taps: RefCell<[Option<Tap>; MAX_TAPS]>,
    /// Changes when a tap begins or ends.
    version: Cell<u32>,
}

impl Taps {
    pub(super) fn version(&self) -> u32 {
        self.version.get()
    }

    pub(super) fn any(&self) -> bool {
        self.taps.borrow().iter().any(Option::is_some)
    }

    /// Adds a tap. Returns its number, or `None` if too many run.
    pub(super) fn add(&self, filter: Arc<TapFilter>) -> Option<usize> {
        let mut taps = self.taps.borrow_mut();
        let number = taps.iter().position(Option::is_none)?;
        *taps.get_mut(number)? = Some(Tap { filter, ring: Ring::default() });
        self.version.set(self.version.get().wrapping_add(1));
        Some(number)
    }

    pub(super) fn remove(&self, number: usize) {
        if let Some(tap) = self.taps.borrow_mut().get_mut(number) {
            *tap = None;
        }
        self.version.set(self.version.get().wrapping_add(1));
    }

    /// Returns the taps whose filters admit this client.
    pub(super) fn of_client(&self, client: &ClientLabel) -> u8 {
        self.mask(|_, tap| tap.filter.admits_client(client))
    }

    /// Returns those of the taps in `among` that show this request, as far as they have room. Chooses the samples.
    pub(super) fn of_request(&self, among: u8, known: &Known<'_>, describer: &Describer) -> u8 {
        self.mask(|at, tap| {
            among & (1 << at) != 0
                && tap.filter.admits_request(known, describer)
                && (tap.filter.sample <= 1 || fastrand::u32(..tap.filter.sample) == 0)
                && tap.ring.has_room()
        })
    }

    /// Takes note that the taps in `among` do not get a command.
    pub(super) fn note_dropped(&self, among: u8) {
        self.mask(|at, tap| {
            if among & (1 << at) != 0 {
                tap.ring.note_dropped();
            }
            false
        });
    }

    /// Returns true if any of the taps in `among` shows arguments.
    pub(super) fn show_arguments(&self, among: u8) -> bool {
        self.mask(|_, tap| tap.filter.arguments == ShownArguments::Show) & among != 0
    }

    /// Gives a copy of an entry to each of the taps in `among`: of `shown` to those that show arguments.
    pub(super) fn give(&self, among: u8, redacted: &Entry, shown: Option<&Entry>) {
        self.mask(|at, tap| {
            if among & (1 << at) != 0 {
                let shown = shown.filter(|_| tap.filter.arguments == ShownArguments::Show);
                tap.ring.push(shown.unwrap_or(redacted).clone());
            }
            false
        });
    }

    /// Returns the mask of the taps for which `is` returns true.
    fn mask(&self, mut is: impl FnMut(usize, &mut Tap) -> bool) -> u8 {
        let mut mask = 0;
        for (at, tap) in self.taps.borrow_mut().iter_mut().enumerate() {
            mask |= u8::from(tap.as_mut().is_some_and(|tap| is(at, tap))) << at;
        }
        mask
    }

    /// Passes the entries of a tap on until its reader leaves.
    pub(super) async fn pass_on(&self, number: usize, batches: mpsc::Sender<TapBatch>) {
        loop {
            tokio::select! {
                () = batches.closed() => return,
                () = sleep(INTERVAL) => {}
            }
            // Without room, the entries stay in the ring, which drops what does not fit.
            let Ok(permit) = batches.try_reserve() else { continue };
            if let Some(Some(tap)) = self.taps.borrow_mut().get_mut(number)
                && !tap.ring.is_empty()
            {
                let (entries, dropped) = tap.ring.take();
                permit.send(TapBatch { entries, dropped });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::latency::entry::Described;
    use crate::latency::{Class, Parts};
    use crate::resp::request::encode;

    fn filter() -> TapFilter {
        TapFilter {
            tenant: None,
            client: None,
            user: None,
            command: None,
            key_prefix: None,
            sample: 1,
            arguments: ShownArguments::Redact,
        }
    }

    fn entry() -> Entry {
        let (client, described, parts) = (ClientLabel::default(), Described::default(), Parts::default());
        let (at, upstream) = (SystemTime::UNIX_EPOCH, "main".into());
        let (class, arguments) = (Class::Shared, ShownArguments::Redact);
        Entry { at, upstream, client, class, described, arguments, parts }
    }

    #[test]
    fn filters_admit_what_they_name() {
        let client =
            ClientLabel { id: 7, address: "127.0.0.1:5".into(), name: "shop".into(), ..Default::default() };
        for (wanted, admitted) in
            [("7", true), ("127.0.0.1:5", true), ("shop", true), ("shop2", false), ("", false)]
        {
            let filter = TapFilter { client: Some(wanted.into()), ..filter() };
            assert_eq!(filter.admits_client(&client), admitted, "{wanted}");
        }
        let describer = Describer::new(1);
        let mut request = Vec::new();
        encode(&[b"SET", b"cart:1", b"shop:1"], &mut request);
        let known = Known::find(&request).expect("a request");
        for (command, prefix, admitted) in
            [("SET", "cart:", true), ("GET", "cart:", false), ("SET", "shop:", false), ("SET", "", true)]
        {
            let (command, key_prefix) = (Some(command.into()), Some(prefix.into()));
            let filter = TapFilter { command, key_prefix, ..filter() };
            assert_eq!(filter.admits_request(&known, &describer), admitted, "{prefix}");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let taps = Taps::default();
        let first = taps.add(Arc::new(filter())).expect("a place");
        let second = taps.add(Arc::new(filter())).expect("a place");
        taps.remove(first);
        assert_eq!(taps.of_client(&ClientLabel::default()), 1 << second);
        (0..1030).for_each(|_| taps.give(1 << second, &entry(), None));
        let (entries, dropped) = taps.taps.borrow_mut()[second].as_mut().expect("a tap").ring.take();
        assert_eq!((entries.len(), dropped), (1024, 6));
        assert_eq!((0..5).filter_map(|_| taps.add(Arc::new(filter()))).count(), MAX_TAPS - 1);
    }
}

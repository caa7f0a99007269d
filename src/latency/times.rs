//! The moments in a command's way through respgate, and the parts of its time. Moments are microseconds since the worker's
//! start; they wrap after 71 minutes, so only their differences count.

/// What a command waited for before it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Nothing.
    #[default]
    Nothing = 0,
    /// Room in a lane, or a lease.
    Lane = 1,
    /// A limit of its tenant.
    Limit = 2,
    /// A primary: the command was held. Its bits include those of the others, so it can be added to them.
    Primary = 3,
}

/// When a command came, how long it waited before the session could pass it on, and what for. One number, because the data
/// path copies and compares it for each command: the moment in the upper half, and below it the wait in microseconds and its
/// kind in the lowest 2 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival(u64);

/// The longest wait that an [`Arrival`] holds, in microseconds: 18 minutes.
const LONGEST_WAIT: u32 = (1 << 30) - 1;

impl Arrival {
    /// Returns the arrival of a command that was read at `read` and that the session passes on at `now`.
    #[inline]
    pub fn new(read: u32, now: u32, wait: Wait) -> Self {
        let waited = now.wrapping_sub(read).min(LONGEST_WAIT);
        Self(u64::from(read) << 32 | u64::from(waited << 2 | wait as u32))
    }

    /// Returns the arrival of a command that is read at `now`, and passed on at once.
    #[inline]
    pub fn at(now: u32) -> Self {
        Self(u64::from(now) << 32)
    }

    /// Returns true if it was noted. It was not if nothing was measured when the command came.
    #[inline]
    pub fn is_noted(self) -> bool {
        self.0 != 0
    }

    /// Returns the arrival of a command that has to be sent again, or for the first time, because its connection was lost.
    pub fn delayed_for_primary(self) -> Self {
        Self(self.0 | Wait::Primary as u64)
    }

    /// Returns when respgate read the command. If the client's own earlier commands had to be answered first: when they were.
    #[inline]
    pub fn read(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Returns when the session passed the command on.
    #[inline]
    pub fn passed(self) -> u32 {
        self.read().wrapping_add(self.0 as u32 >> 2)
    }

    /// Returns true if the command waited for a primary.
    pub fn is_held(self) -> bool {
        self.wait() == Wait::Primary
    }

    /// Returns what the command waited for.
    #[inline]
    fn wait(self) -> Wait {
        match self.0 & 3 {
            0 => Wait::Nothing,
            1 => Wait::Lane,
            2 => Wait::Limit,
            _ => Wait::Primary,
        }
    }
}

/// The class of a command by its route, which the histograms tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It went by a shared connection.
    Shared,
    /// It went by a leased connection.
    Leased,
    /// It went by a leased connection, and may wait there for other clients.
    Blocking,
    /// respgate answered it.
    Local,
}

impl Class {
    /// All classes, in the order of their histograms.
    pub const ALL: [Self; 4] = [Self::Shared, Self::Leased, Self::Blocking, Self::Local];

    /// Returns the class as metrics and logs spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Leased => "leased",
            Self::Blocking => "blocking",
            Self::Local => "local",
        }
    }
}

/// The moments of one command up to its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandTimes {
    /// When and how it came.
    pub arrival: Arrival,
    /// When it was written to the server.
    pub sent: u32,
    /// When its reply was read.
    pub replied: u32,
    /// Its class.
    pub class: Class,
}

/// The parts of a command's time, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// From reading the command to the poll that writes its reply.
    pub total: u32,
    /// Waiting for a limit of the tenant.
    pub limit: u32,
    /// Waiting for a primary.
    pub hold: u32,
    /// Waiting for a lane or a lease, until the worker wrote the command to the server.
    pub wait: u32,
    /// At the server, and on the network to it.
    pub server: u32,
    /// From reading the server's reply to the poll that writes it to the client.
    pub respgate: u32,
}

impl CommandTimes {
    /// Returns the time from reading the command to reading its reply, in microseconds.
    #[inline]
    pub fn so_far(&self) -> u32 {
        self.replied.wrapping_sub(self.arrival.read())
    }

    /// Returns the time that the command waited before it was sent, in microseconds.
    pub fn before_sent(&self) -> u32 {
        self.sent.wrapping_sub(self.arrival.read())
    }

    /// Returns the parts of the time of a command whose reply was written to the client at `written`.
    #[inline]
    pub fn parts(&self, written: u32) -> Parts {
        let read = self.arrival.read();
        let mut parts = Parts {
            total: written.wrapping_sub(read),
            server: self.replied.wrapping_sub(self.sent),
            respgate: written.wrapping_sub(self.replied),
            ..Parts::default()
        };
        match self.arrival.wait() {
            Wait::Nothing | Wait::Lane => parts.wait = self.before_sent(),
            // A connection has to be opened after the hold, so the whole time counts as held.
            Wait::Primary => parts.hold = self.before_sent(),
            Wait::Limit => {
                let passed = self.arrival.passed();
                parts.limit = passed.wrapping_sub(read);
                parts.wait = self.sent.wrapping_sub(passed);
            }
        }
        parts
    }
}

/// The names of the parts, in the order of a command's way.
pub const PARTS: [&str; 5] = ["limit", "hold", "wait", "server", "respgate"];

impl Parts {
    /// Returns the parts in the order of [`PARTS`].
    pub fn each(&self) -> [u32; PARTS.len()] {
        [self.limit, self.hold, self.wait, self.server, self.respgate]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(arrival: Arrival) -> Parts {
        CommandTimes { arrival, sent: 1000, replied: 1500, class: Class::Shared }.parts(1600)
    }

    #[test]
    fn the_parts_make_the_total() {
        let rest = Parts { total: 1590, server: 500, respgate: 100, ..Parts::default() };
        let of = |until, wait| parts(Arrival::new(10, until, wait));
        assert_eq!(of(10, Wait::Nothing), Parts { wait: 990, ..rest });
        assert_eq!(of(700, Wait::Lane), Parts { wait: 990, ..rest });
        assert_eq!(of(700, Wait::Limit), Parts { limit: 690, wait: 300, ..rest });
        assert_eq!(of(700, Wait::Primary), Parts { hold: 990, ..rest });
        for wait in [Wait::Nothing, Wait::Lane, Wait::Limit, Wait::Primary] {
            let arrival = Arrival::new(10, 700, wait);
            assert_eq!((arrival.read(), arrival.passed(), arrival.wait()), (10, 700, wait));
            assert_eq!(parts(arrival.delayed_for_primary()), Parts { hold: 990, ..rest });
            assert_eq!(of(700, wait).each().iter().sum::<u32>(), 1590);
        }
    }

    #[test]
    fn moments_wrap() {
        let read = u32::MAX - 9;
        let arrival = Arrival::new(read, 3, Wait::Limit);
        let times = CommandTimes { arrival, sent: 5, replied: 15, class: Class::Shared };
        assert_eq!((times.parts(20).total, times.parts(20).limit, times.so_far()), (30, 13, 25));
        assert_eq!(Arrival::new(0, u32::MAX, Wait::Lane).passed(), LONGEST_WAIT);
    }
}

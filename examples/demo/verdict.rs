//! What became of the writes, from what the writers were told and what the surviving primary holds.

use std::fmt;

/// The account of one failover.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Writes whose success a client was told.
    pub acknowledged: u64,
    /// Of those, the ones that the surviving primary does not have.
    pub lost: i64,
    /// Writes that ran twice.
    pub doubled: i64,
    /// Writes answered with `OUTCOMEUNKNOWN`.
    pub unknown: u64,
    /// Every other error, of readers too, and lost connections.
    pub errors: u64,
    /// The newest of those.
    pub last_error: Option<String>,
}

impl Verdict {
    /// Whether a planned failover went as promised: nobody noticed anything but a pause.
    pub fn is_seamless(&self) -> bool {
        self.is_honest() && self.lost == 0 && self.unknown == 0
    }

    /// Whether a crash went as promised: nothing ran twice, and the only error was the one that says so.
    pub fn is_honest(&self) -> bool {
        self.acknowledged > 0 && self.doubled == 0 && self.errors == 0
    }

    /// Closes a writer's account with the value that its counter has.
    pub fn close(&mut self, counter: &mut Counter, surviving: i64) {
        self.lost += (counter.value - surviving).max(0);
        self.doubled += (surviving - counter.value - counter.unknown).max(0);
        *counter = Counter { value: surviving, unknown: 0 };
    }

    /// A writer was told that its counter is now at `value`.
    pub fn acknowledge(&mut self, counter: &mut Counter, value: i64) {
        let next = counter.value + 1;
        self.acknowledged += 1;
        self.lost += (next - value).max(0);
        self.doubled += (value - next - counter.unknown).max(0);
        *counter = Counter { value, unknown: 0 };
    }

    /// The outcome of a writer's newest command is not known: an error said so, or its connection was lost.
    pub fn doubt(&mut self, counter: &mut Counter) {
        counter.unknown += 1;
    }

    pub fn fail(&mut self, error: String) {
        self.errors += 1;
        self.last_error = Some(error);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, lost, doubled, unknown, errors, .. } = self;
        write!(
            f,
            "{acknowledged} acknowledged, {lost} lost, {doubled} doubled, {unknown} unknown, {errors} other errors"
        )
    }
}

/// A counter that one writer has to itself.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    /// The value it had last.
    value: i64,
    /// Writes since then whose outcome is unknown.
    unknown: i64,
}

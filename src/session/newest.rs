//! Leads from a value that a reload has replaced to the newest one.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// The newest version of a value. All versions share it.
pub struct Newest<T>(RefCell<Weak<T>>);

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Newest<T> {
    /// Makes `value` the newest version. The caller keeps it alive.
    pub fn set(&self, value: &Rc<T>) {
        *self.0.borrow_mut() = Rc::downgrade(value);
    }

    /// Returns the newest version; `None` if nobody keeps one alive.
    pub fn get(&self) -> Option<Rc<T>> {
        self.0.borrow().upgrade()
    }
}

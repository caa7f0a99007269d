//! A setting as typed: it may be absent, and knows the place where it was typed.

use super::report::{Place, Report};

/// One setting.
#[derive(Clone, Debug, Default)]
pub enum Setting<T> {
    /// The setting was not typed; the default applies.
    #[default]
    Absent,
    /// The setting was typed, but its value is wrong and already reported. Checks that depend on it
    /// report nothing more.
    Invalid,
    /// The setting was typed, at this place.
    Given(T, Place),
}

impl<T> Setting<T> {
    /// Returns `Given` if there is a value, else `Absent`.
    pub fn optional(value: Option<T>, place: &Place) -> Self {
        value.map_or(Self::Absent, |value| Self::Given(value, place.clone()))
    }

    /// Returns true if the setting was not typed at all.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Returns true if the setting was typed and its value is wrong.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid)
    }

    /// Returns the value if it was typed and is valid.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Given(value, _) => Some(value),
            _ => None,
        }
    }

    /// Returns the place of a valid setting.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Given(_, place) => Some(place),
            _ => None,
        }
    }

    /// Returns the value, or `default`.
    pub fn or(self, default: T) -> T {
        match self {
            Self::Given(value, _) => value,
            _ => default,
        }
    }

    /// Returns the value, or the type's own default.
    pub fn or_default(self) -> T
    where
        T: Default,
    {
        self.or(T::default())
    }

    /// Returns the same setting with its value converted.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Setting<U> {
        match self {
            Self::Absent => Setting::Absent,
            Self::Invalid => Setting::Invalid,
            Self::Given(value, place) => Setting::Given(convert(value), place),
        }
    }

    /// Replaces this setting by the other one if the other one was typed.
    pub fn override_with(&mut self, other: Self) {
        if !other.is_absent() {
            *self = other;
        }
    }

    /// Returns this setting, or `wider` if this one was not typed.
    pub fn or_else(&self, wider: &Self) -> Self
    where
        T: Clone,
    {
        if self.is_absent() { wider.clone() } else { self.clone() }
    }

    /// Refuses a value below `least`. The error shows it as `least_shown`.
    pub fn at_least(self, least: T, least_shown: &str, report: &mut Report) -> Self
    where
        T: PartialOrd,
    {
        match self {
            Self::Given(value, place) if value < least => {
                report.error(&place, format!("must be at least {least_shown}"));
                Self::Invalid
            }
            other => other,
        }
    }
}

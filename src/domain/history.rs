//! Bounded series that keep every extreme.

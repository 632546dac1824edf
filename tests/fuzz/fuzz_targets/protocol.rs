#![no_main]
//! The lines of a socket: any bytes give a command, an event or an error, and what was read is read again from what is
//! written of it.
use cifar_tui::session::protocol::{Command, Event};
use serde::{Serialize, de::DeserializeOwned};

fn there_and_back<T: Serialize + DeserializeOwned>(line: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<T>(line) {
        let written = serde_json::to_vec(&message).expect("plain data");
        let again: T = serde_json::from_slice(&written).expect("what was written can be read");
        // Not the messages themselves: a number that is none equals nothing.
        assert_eq!(serde_json::to_vec(&again).expect("plain data"), written);
    }
}

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    there_and_back::<Command>(line);
    there_and_back::<Event>(line);
});

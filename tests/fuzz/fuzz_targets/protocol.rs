#![no_main]
//! The lines of a socket: any bytes give a command, an event or an error, and a message that was read and written can be
//! read again.
use cifar_tui::session::protocol::{self, CommandMessage, EventMessage, read};
use serde::{Serialize, de::DeserializeOwned};

fn there_and_back<T: Serialize + DeserializeOwned>(line: &[u8]) {
    if let Ok(message) = read::<T>(line) {
        let written = protocol::line(&message).expect("plain data");
        let again: T = read(&written).expect("what was written can be read");
        // Not the messages themselves: NaN does not equal itself.
        assert_eq!(protocol::line(&again).expect("plain data"), written);
    }
}

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    there_and_back::<CommandMessage>(line);
    there_and_back::<EventMessage>(line);
});

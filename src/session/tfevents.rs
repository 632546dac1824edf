//! TensorBoard event files: scalars in the TFRecord format. A record is its length (u64), the masked CRC-32C of those
//! eight bytes, the bytes of an `Event` message, and their masked CRC-32C; the messages are encoded by hand, since
//! protocol buffers with four fields need no library. Format: tensorflow/core/lib/io/record_writer.cc and
//! tensorflow/core/util/event.proto.

use crate::train::files::{Appender, Folder};
use std::io;

/// An event file that is open for appending.
pub struct EventFile {
    file: Appender,
}

impl EventFile {
    /// Creates a new file in `folder`. `start` is in seconds since the Unix epoch. TensorBoard ignores records from
    /// `step` on in older files, since the run continues from a checkpoint at that step.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn create(folder: &Folder, start: f64, step: u64) -> io::Result<Self> {
        let second = start as u64;
        let mut number = 0;
        let file = loop {
            // TensorBoard reads the files of a folder in alphabetical order.
            let name = format!(
                "events.out.tfevents.{second}.cifar-tui.{}.{number}",
                std::process::id()
            );
            match folder.append_to_new(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                other => break other?,
            }
        };
        let mut events = EventFile { file };
        let mut version = Message::default();
        version.double(1, start);
        version.bytes(3, b"brain.Event:2");
        events.record(&version.0)?;
        let mut session = Message::default();
        session.varint(1, 1); // SessionLog.status = START: discard older records from this step on.
        let mut restart = Message::default();
        restart.double(1, start);
        restart.varint(2, step);
        restart.bytes(7, &session.0);
        events.record(&restart.0)?;
        Ok(events)
    }

    /// Writes the scalars of a step.
    ///
    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn scalars(&mut self, time: f64, step: u64, scalars: &[(&str, f64)]) -> io::Result<()> {
        let mut summary = Message::default();
        for (tag, value) in scalars {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.float(2, *value as f32);
            summary.bytes(1, &entry.0);
        }
        let mut event = Message::default();
        event.double(1, time);
        event.varint(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0)
    }

    /// # Errors
    /// Returns an error if a file operation fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(data);
        record.extend_from_slice(&masked_crc(data).to_le_bytes());
        self.file.add(&record)
    }
}

/// A protocol buffer message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn tag(&mut self, field: u8, wire: u8) {
        self.0.push(field << 3 | wire);
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u8, value: u64) {
        self.tag(field, 0);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u8, value: f64) {
        self.tag(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u8, value: &[u8]) {
        self.tag(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u8, value: f32) {
        self.tag(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

/// Table of the CRC-32C (Castagnoli), with reflected bits.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82F6_3B78
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        crc >> 8 ^ CRC_TABLE[usize::from(crc as u8 ^ byte)]
    })
}

/// The CRC as TensorFlow stores it: rotated, plus a constant. A CRC over data that contain plain CRCs would be weak.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn crc_known_answers() {
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn records_are_framed_and_hold_the_scalars() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(&folder.path().into(), 1.0, 300).unwrap();
        file.scalars(2.5, 300, &[("loss/train", 0.5), ("rate", 0.25)])
            .unwrap();
        file.flush().unwrap();
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap();
        let bytes = std::fs::read(path.unwrap().path()).unwrap();
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(*rest.first_chunk().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(*rest[at..].first_chunk().unwrap());
            assert_eq!(crc(8), masked_crc(&rest[..8]));
            assert_eq!(crc(12 + length), masked_crc(&rest[12..12 + length]));
            records.push(&rest[12..12 + length]);
            rest = &rest[16 + length..];
        }
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"brain.Event:2"));
        let mut expected = vec![9];
        expected.extend(2.5f64.to_le_bytes());
        expected.extend([16, 0xAC, 2, 42, 32, 10, 17, 10, 10]); // step 300; summary; value; tag of 10 letters
        expected.extend(b"loss/train");
        expected.push(21);
        expected.extend(0.5f32.to_le_bytes());
        expected.extend([10, 11, 10, 4]);
        expected.extend(b"rate");
        expected.push(21);
        expected.extend(0.25f32.to_le_bytes());
        assert_eq!(records[2], expected);
        // A second file of this process in the same second does not replace the first.
        EventFile::create(&folder.path().into(), 1.0, 300).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

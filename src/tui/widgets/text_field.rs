//! A line of text that is edited with readline's usual keys.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A text and a cursor between two characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextField {
    text: String,
    /// In bytes; at the start of a character or at the end.
    cursor: usize,
}

impl TextField {
    /// The cursor is at the end.
    pub fn new(text: &str) -> Self {
        TextField {
            text: text.to_owned(),
            cursor: text.len(),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The cursor, in bytes.
    pub fn cursor(&self) -> usize {
        self.cursor
    }

    /// Inserts at the cursor; line breaks and other control characters become spaces.
    pub fn insert(&mut self, text: &str) {
        for c in text.chars() {
            let c = if c.is_control() { ' ' } else { c };
            self.text.insert(self.cursor, c);
            self.cursor += c.len_utf8();
        }
    }

    /// Handles a key. Returns false if it has no effect.
    pub fn key(&mut self, key: &KeyEvent) -> bool {
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        let word = key
            .modifiers
            .intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
        match key.code {
            KeyCode::Char('a') if ctrl => self.cursor = 0,
            KeyCode::Char('e') if ctrl => self.cursor = self.text.len(),
            KeyCode::Char('b') if ctrl => self.cursor = self.before(),
            KeyCode::Char('f') if ctrl => self.cursor = self.after(),
            KeyCode::Char('u') if ctrl => self.delete(0, self.cursor),
            KeyCode::Char('k') if ctrl => self.delete(self.cursor, self.text.len()),
            KeyCode::Char('w') if ctrl => self.delete(self.word_before(), self.cursor),
            KeyCode::Char('d') if ctrl => self.delete(self.cursor, self.after()),
            KeyCode::Char(c) if !word => self.insert(c.encode_utf8(&mut [0; 4])),
            KeyCode::Left if word => self.cursor = self.word_before(),
            KeyCode::Right if word => self.cursor = self.word_after(),
            KeyCode::Left => self.cursor = self.before(),
            KeyCode::Right => self.cursor = self.after(),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            KeyCode::Backspace => self.delete(self.before(), self.cursor),
            KeyCode::Delete => self.delete(self.cursor, self.after()),
            _ => return false,
        }
        true
    }

    fn delete(&mut self, from: usize, to: usize) {
        self.text.drain(from..to);
        self.cursor = from;
    }

    fn before(&self) -> usize {
        self.text[..self.cursor]
            .char_indices()
            .next_back()
            .map_or(0, |(at, _)| at)
    }

    fn after(&self) -> usize {
        self.text[self.cursor..]
            .chars()
            .next()
            .map_or(self.cursor, |c| self.cursor + c.len_utf8())
    }

    fn word_before(&self) -> usize {
        let head = self.text[..self.cursor].trim_end_matches(' ');
        head.rfind(' ').map_or(0, |at| at + 1)
    }

    fn word_after(&self) -> usize {
        let tail = &self.text[self.cursor..];
        let blank = tail.len() - tail.trim_start_matches(' ').len();
        let word = tail[blank..].find(' ').unwrap_or(tail.len() - blank);
        self.cursor + blank + word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(field: &mut TextField, code: KeyCode, modifiers: KeyModifiers) {
        assert!(field.key(&KeyEvent::new(code, modifiers)));
    }

    #[test]
    fn keys_edit() {
        let none = KeyModifiers::NONE;
        let ctrl = KeyModifiers::CONTROL;
        let mut field = TextField::new("conv 32");
        press(&mut field, KeyCode::Backspace, none);
        press(&mut field, KeyCode::Char('é'), none);
        assert_eq!((field.text(), field.cursor()), ("conv 3é", 8));
        press(&mut field, KeyCode::Left, none);
        assert_eq!(field.cursor(), 6);
        press(&mut field, KeyCode::Char('k'), ctrl);
        press(&mut field, KeyCode::Char('w'), ctrl);
        assert_eq!((field.text(), field.cursor()), ("conv ", 5));
        press(&mut field, KeyCode::Home, none);
        press(&mut field, KeyCode::Right, ctrl);
        assert_eq!(field.cursor(), 4);
        press(&mut field, KeyCode::Char('u'), ctrl);
        assert_eq!(field.text(), " ");
        field.insert("a\nb");
        assert_eq!(field.text(), "a b ");
        assert!(!field.key(&KeyEvent::new(KeyCode::F(5), none)));
    }

    #[test]
    fn nothing_happens_at_the_ends() {
        let mut field = TextField::default();
        for code in [
            KeyCode::Left,
            KeyCode::Right,
            KeyCode::Backspace,
            KeyCode::Delete,
        ] {
            press(&mut field, code, KeyModifiers::NONE);
            press(&mut field, code, KeyModifiers::ALT);
        }
        assert_eq!((field.text(), field.cursor()), ("", 0));
    }
}

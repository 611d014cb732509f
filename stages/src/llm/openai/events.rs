//! Server-sent events out of bytes, as the HTML standard says: lines end with LF, CR or CRLF, a blank line ends an event, several
//! `data:` lines are one text, comments and other fields mean nothing here.

/// One event.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    /// What `event:` says; mostly nothing.
    pub name: String,
    pub data: String,
}

/// Takes bytes in any pieces.
#[derive(Default)]
pub struct Events {
    /// The line so far: bytes, because a character may be cut in two.
    line: Vec<u8>,
    /// A line ended with CR: a LF that follows belongs to it.
    after_cr: bool,
    began: bool,
    event: Event,
    has_data: bool,
}

impl Events {
    /// The events that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut complete = Vec::new();
        for &byte in bytes {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    complete.extend(self.end_line());
                }
                other => {
                    self.after_cr = false;
                    self.line.push(other);
                }
            }
        }
        complete
    }

    /// The event that was begun when the stream ended; some servers leave the last blank line out.
    pub fn finish(&mut self) -> Option<Event> {
        self.end_line().or_else(|| self.end_event())
    }

    fn end_line(&mut self) -> Option<Event> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = if self.began { &*line } else { line.trim_start_matches('\u{feff}') };
        self.began = true;
        if line.is_empty() {
            return self.end_event();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => self.event.name = value.to_string(),
            _ => {}
        }
        None
    }

    /// An event without data is none.
    fn end_event(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        std::mem::take(&mut self.has_data).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_the_standard_says() {
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
        for (stream, expected) in [
            ("data: a\n\ndata:b\n\n", vec![event("", "a"), event("", "b")]),
            ("data: a\r\rdata: b\r\n\r\n", vec![event("", "a"), event("", "b")]),
            ("data: a\ndata:  b\ndata\n\n", vec![event("", "a\n b\n")]),
            (": note\nid: 3\nretry: 10\ndata: a\n\n", vec![event("", "a")]),
            ("event: error\ndata: a\n\ndata: b\n\n", vec![event("error", "a"), event("", "b")]),
            ("event: ping\n\n\n\ndata: a\n\n", vec![event("", "a")]),
            ("\u{feff}data: a\n\n", vec![event("", "a")]),
            ("data: a", vec![event("", "a")]),
            ("data: a\n", vec![event("", "a")]),
            ("", vec![]),
        ] {
            let mut events = Events::default();
            let mut found = events.push(stream.as_bytes());
            found.extend(events.finish());
            assert_eq!(found, expected, "{stream:?}");
        }
    }
}

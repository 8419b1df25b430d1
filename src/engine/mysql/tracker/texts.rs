//! A statement's text on its way: what it tells, and what in it is changed.

use bytes::BytesMut;

use super::changed::splice_packet;
use super::client::{Packet, Passes, command};
use super::{Shape, Tracker};
use crate::engine::Rest;
use crate::engine::mysql::capability::{Product, bit};
use crate::engine::mysql::packet::{HEADER, packet_length};
use crate::engine::mysql::sql::special::special;
use crate::engine::mysql::sql::{self, Scan, Traits, identity, kill};

impl Tracker {
    pub(super) fn query(&mut self, bytes: &mut BytesMut, packet: Packet) -> Passes {
        let text_at = self.text_at(packet.body(bytes));
        let (scan, _) = self.read_text(bytes, packet, text_at)?;
        self.runs(command::QUERY, Shape::Results, 0, scan.traits, scan.effects);
        Ok(())
    }

    pub(super) fn prepare(&mut self, bytes: &mut BytesMut, packet: Packet) -> Passes {
        let (scan, packet) = self.read_text(bytes, packet, 1)?;
        let whole = packet.is_whole();
        let text = &packet.body(bytes)[1..];
        self.prepares(text.into(), scan, whole);
        // The text is read again as it passes.
        self.collecting = !whole;
        Ok(())
    }

    /// Reads the text of the packet, and the packet as it is then: it may be changed by that.
    fn read_text(
        &mut self,
        bytes: &mut BytesMut,
        packet: Packet,
        text_at: usize,
    ) -> Result<(Scan, Packet), Rest> {
        let text = &packet.body(bytes)[text_at..];
        let scan = self.scan_text(text, packet.is_whole());
        self.show(&packet.body(bytes)[text_at..]);
        if !packet.is_whole() {
            return Ok((scan, packet));
        }
        if self.passing.is_none() && self.is_to_be_looked_at(packet.body(bytes), text_at, scan.traits) {
            return Err(Rest::Intercept);
        }
        let mut changed = self.put_edits(bytes, packet, text_at);
        if scan.traits.has(Traits::OWN_NUMBER) {
            changed |= self.put_own_number(bytes, packet.at, text_at);
        }
        if !changed {
            return Ok((scan, packet));
        }
        let length = packet_length(&bytes[packet.at..]).map_or(0, |length| length - HEADER);
        let packet = Packet { length, here: length, ..packet };
        let mut after = self.scan_text(&packet.body(bytes)[text_at..], true);
        if scan.traits.has(Traits::ASKS_DIAGNOSTICS) {
            after.traits.add(Traits::ASKS_DIAGNOSTICS);
        }
        Ok((after, packet))
    }

    fn scan_text(&self, text: &[u8], whole: bool) -> Scan {
        let mut scan = sql::scan(text, self.mode());
        if !whole {
            // The rest is rows, most probably. A second statement may be anything.
            let several = self.wire.multi_statements.unwrap_or(self.has(bit::MULTI_STATEMENTS));
            let more = if several { Traits::ANYTHING | Traits::SEVERAL } else { Traits::default() };
            scan.traits.add(more | Traits::SUSPECT | Traits::WRITES);
        }
        if self.reads_otherwise() {
            scan.traits.add(Traits::ANYTHING | Traits::SEVERAL);
        }
        scan
    }

    /// In these character sets a backslash may be the second half of a letter.
    fn reads_otherwise(&self) -> bool {
        let Some(name) = &self.wire.context.character_set else { return false };
        [&b"big5"[..], b"gbk", b"sjis", b"cp932", b"gb18030"].iter().any(|set| name.eq_ignore_ascii_case(set))
    }

    /// It names other sessions, or asks what only the router knows.
    fn is_to_be_looked_at(&self, body: &[u8], text_at: usize, traits: Traits) -> bool {
        if traits.has(Traits::KILLS) || traits.has(Traits::PREPARES_REFUSED) {
            return true;
        }
        if body[0] == command::PREPARE {
            // What is prepared runs later, and elsewhere perhaps.
            return traits.has(Traits::ASKS_DIAGNOSTICS);
        }
        if traits.has(Traits::ASKS_DIAGNOSTICS) && self.echo.is_some() {
            return true;
        }
        if traits.has(Traits::ASKS_FOUND_ROWS) && self.misses_found_rows() {
            return true;
        }
        let text = &body[text_at..];
        traits.has(Traits::SERVER_NUMBERS) && !kill::namings(text, self.mode()).is_empty()
            || traits.has(Traits::SPECIAL) && self.echo.is_some() && special(text, self.mode()).is_some()
    }

    /// What a look at the command has found to be changed in it. `true`: there was something.
    fn put_edits(&mut self, bytes: &mut BytesMut, packet: Packet, text_at: usize) -> bool {
        let edits = self.passing.take().unwrap_or_default();
        for (range, with) in edits.iter().rev() {
            splice_packet(bytes, packet.at, text_at + range.start..text_at + range.end, with);
        }
        !edits.is_empty()
    }

    /// The number that the client knows in the place of what would yield the backend's. `true`: the text is changed.
    fn put_own_number(&self, bytes: &mut BytesMut, at: usize, text_at: usize) -> bool {
        let Some(length) = packet_length(&bytes[at..]) else { return false };
        let text = &bytes[at + HEADER + text_at..at + length];
        if self.reads_otherwise() && !text.is_ascii() {
            return false;
        }
        // Of the type, length and flags that the server's own function has.
        let own_number = match self.product {
            Product::MariaDb | Product::MySql => format!("CAST({} AS UNSIGNED)", self.id),
            Product::MySql56 => format!("({}|0)", self.id),
        };
        let database = self.wire.context.database.as_deref().unwrap_or_default();
        let server_only = [&b"information_schema"[..], b"performance_schema", b"sys"]
            .iter()
            .any(|name| database.eq_ignore_ascii_case(name));
        match identity::with_own_number(text, self.mode(), &own_number, server_only) {
            Some(with) => splice_packet(bytes, at, text_at..length - HEADER, &with),
            None => false,
        }
    }
}

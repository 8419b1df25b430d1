//! Asks an idle backend what its session is made of.
//!
//! ```text
//! Asking ──Z 'T'──► Probing ──Z──► Leaving ──Z 'I'──► Describing ──Z …──► done
//!    └──error: leave, mend the question, ask again (a few times); the same, once, if there is more to ask about
//! ```
//!
//! Where nothing was run that should have changed the session, it is asked the brief question of [`digest`] first, and
//! everything only if that is not answered as before. It needs no shield where the session's defaults are the usual ones.
//!
//! All of it goes by the extended protocol under reserved names, because a `Query` would destroy the unnamed
//! statement. `BEGIN … READ COMMITTED READ ONLY NOT DEFERRABLE` shields the question from the session's own defaults,
//! and `ROLLBACK` has a `Sync` of its own, so that an error cannot leave the client in a failed transaction.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::digest::{self, Digest};
use super::introspection::{self, Reading, block};
use super::log_in::{refused, unexpected};
use super::message::{self, Message, error_field};
use super::question::Question;
use super::state::{SequenceValue, State};
use crate::engine::{Captured, Dialogue, DialogueError, Obstacle};

/// The longest row that is read: a text of the greatest length, and the names and types beside it.
const MAX_ROW: usize = introspection::LONGEST_TEXT + 8 * 1024 * 1024;
/// How often the question is mended and asked again.
const MAX_ATTEMPTS: u32 = 8;
/// Prefix of the router's own statement names, followed by a nonce.
pub const RESERVED: &str = "_mv_";

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE";

/// What the next `ReadyForQuery` ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Asking,
    Probing,
    Leaving,
    Describing(usize),
}

/// See the module.
pub struct Capture {
    question: Question,
    nonce: String,
    attempts: u32,
    /// `statement_timeout` struck: ask with it off and read its true value first.
    without_timeout: bool,
    timeout_value: Option<Bytes>,
    steps: VecDeque<Step>,
    state: State,
    lastval: Option<i64>,
    description: BytesMut,
    error: Option<DialogueError>,
    aside: BytesMut,
}

impl Capture {
    /// `nonce` makes the reserved names unguessable.
    pub fn new(question: Question, nonce: u64) -> Capture {
        Capture {
            state: question.from_wire.clone(),
            question,
            nonce: format!("{RESERVED}{nonce:016x}"),
            attempts: 0,
            without_timeout: false,
            timeout_value: None,
            steps: VecDeque::new(),
            lastval: None,
            description: BytesMut::new(),
            error: None,
            aside: BytesMut::new(),
        }
    }

    fn run(&self, out: &mut BytesMut, name: &str, sql: &str, parameters: &[&[u8]]) {
        let name = format!("{}{name}", self.nonce);
        message::put_close(out, &name);
        message::put_parse(out, &name, sql.as_bytes(), &[]);
        message::put_bind(out, &name, parameters);
        message::put_execute(out);
        message::put_close(out, &name);
    }

    fn ask(&mut self, out: &mut BytesMut) {
        self.attempts += 1;
        self.state = self.question.to_begin_with();
        self.lastval = None;
        if std::mem::take(&mut self.question.begun) {
            // That began an implicit transaction, in which `BEGIN` may not choose how to read any more.
            message::put_sync(out);
            self.steps.push_back(Step::Asking);
        }
        let shielded = self.question.is_shielded();
        if shielded {
            self.run(out, "b", BEGIN, &[]);
        }
        if self.without_timeout {
            self.run(out, "t", "SELECT 'time', pg_catalog.current_setting('statement_timeout')", &[]);
            self.run(out, "s", "SET LOCAL statement_timeout = 0", &[]);
            // Up to version 10 one timer runs from `Sync` to `Sync`.
            message::put_sync(out);
            self.steps.push_back(Step::Asking);
        }
        match self.question.last {
            Some(_) => self.ask_briefly(out, digest::question(self.question.major)),
            None => self.ask_for_everything(out),
        }
        let more = self.question.more;
        message::put_sync(out);
        let probe = match more.sequences {
            true => introspection::sequence_probe(&self.nonce),
            false => introspection::lastval_probe(&self.nonce),
        };
        self.run(out, "d", &probe, &[]);
        message::put_sync(out);
        self.steps.extend([Step::Asking, Step::Probing]);
        if shielded {
            self.leave(out);
            self.steps.push_back(Step::Leaving);
        }
    }

    fn ask_briefly(&self, out: &mut BytesMut, question: Option<String>) {
        if let Some(question) = question {
            self.run(out, "i", &question, &[digest::names(&self.question.names).as_bytes()]);
        }
    }

    fn ask_for_everything(&self, out: &mut BytesMut) {
        let Question { major, superuser, more, .. } = self.question;
        let questions = introspection::questions(major, superuser, more);
        for question in &questions.plain {
            self.run(out, "i", question, &[]);
        }
        let (custom, held): (Vec<&String>, Vec<&String>) =
            self.question.names.iter().partition(|name| name.contains('.'));
        for (names, question) in [(custom, &*questions.custom), (held, questions.held)] {
            if !names.is_empty() {
                self.run(out, "i", question, &[array(&names).as_bytes()]);
            }
        }
        self.ask_briefly(out, self.question.again.clone());
    }

    fn leave(&self, out: &mut BytesMut) {
        // After an error the trailing Close was skipped; without these the next Parse would find the name taken.
        for name in ["b", "i", "d", "t", "s"] {
            message::put_close(out, &format!("{}{name}", self.nonce));
        }
        self.run(out, "r", "ROLLBACK", &[]);
        message::put_sync(out);
    }

    fn row(&mut self, body: &[u8]) -> Result<(), DialogueError> {
        let malformed = || DialogueError::Protocol("malformed row".into());
        let row = message::row(body).ok_or_else(malformed)?;
        match row.first() {
            Some(Some(b"time")) => {
                self.timeout_value = row.get(1).copied().flatten().map(Bytes::copy_from_slice);
                return Ok(());
            }
            Some(Some(b"same")) => {
                let Question { ref names, process, .. } = self.question;
                self.state.digest = Some(Digest::of(body, names, process));
                return Ok(());
            }
            _ => {}
        }
        let reading = Reading {
            login_user: &self.question.login_user,
            superuser: self.question.superuser,
            standard_strings: self.question.standard_strings,
        };
        introspection::read_row(&row, &reading, &mut self.state).ok_or_else(malformed)
    }

    /// An `INFO` of the sequence probe.
    fn info(&mut self, body: &[u8]) {
        let text = String::from_utf8_lossy(error_field(body, b'M')).into_owned();
        let Some(text) = text.strip_prefix(&self.nonce) else { return };
        if let Some(value) = text.strip_prefix("lastval=") {
            self.lastval = value.parse().ok();
            self.state.more.sequences = true;
        } else if let Some(rest) = text.strip_prefix("currval=") {
            let mut parts = rest.splitn(3, ' ');
            let (value, own, name) = (parts.next(), parts.next(), parts.next());
            if let (Some(Ok(value)), Some(own), Some(name)) = (value.map(str::parse), own, name) {
                let name = Bytes::copy_from_slice(name.as_bytes());
                self.state.sequences.push(SequenceValue { name, value, restorable: own == "t" });
            }
        }
    }

    /// `lastval()` is what the last `nextval()` gave: that sequence is to be restored last. If it cannot be (not owned,
    /// dropped, not reported), none is: an error is better than another sequence's value.
    fn settle_sequences(&mut self) {
        let lastval = self.lastval;
        let is_last = |sequence: &SequenceValue| sequence.restorable && Some(sequence.value) == lastval;
        if !self.state.sequences.iter().any(is_last) {
            self.state.sequences.clear();
        }
        self.state.sequences.sort_by_key(is_last);
    }

    fn ready(&mut self, status: u8, out: &mut BytesMut) -> Result<bool, DialogueError> {
        match self.steps.pop_front() {
            Some(Step::Probing) => {
                self.settle_sequences();
                if self.steps.is_empty() { self.left(out) } else { Ok(false) }
            }
            Some(Step::Leaving) if status != b'I' => {
                self.leave(out);
                self.attempts += 1;
                self.steps.push_back(Step::Leaving);
                if self.attempts > MAX_ATTEMPTS { Err(self.give_up()) } else { Ok(false) }
            }
            Some(Step::Leaving) => self.left(out),
            Some(Step::Describing(at)) => {
                let description = std::mem::take(&mut self.description).freeze();
                match self.error.take() {
                    None => self.state.prepared[at].description = Some(description),
                    // A late cancel request: it is described the next time.
                    Some(DialogueError::Refused { code, .. }) if code == "57014" => {}
                    Some(_) => block(&mut self.state, Some(Obstacle::PreparedStatement)),
                }
                Ok(self.steps.is_empty())
            }
            Some(Step::Asking) | None => Ok(false),
        }
    }

    fn give_up(&mut self) -> DialogueError {
        self.error
            .take()
            .unwrap_or_else(|| DialogueError::Protocol("the session does not come to rest".into()))
    }

    /// Back at rest: ask again if the question failed, else go on to the descriptions.
    fn left(&mut self, out: &mut BytesMut) -> Result<bool, DialogueError> {
        if self.is_another() {
            (self.question.last, self.error) = (None, None);
            self.ask(out);
            return Ok(false);
        }
        if self.error.is_some() && self.question.again.take().is_some() {
            // It can do without.
            self.error = None;
            self.ask(out);
            return Ok(false);
        }
        if let Some(error) = self.error.take() {
            if self.attempts >= MAX_ATTEMPTS || !self.mend(&error) {
                return Err(error);
            }
            self.ask(out);
            return Ok(false);
        }
        let wanted = self.question.more.and(self.state.more);
        if wanted != self.question.more {
            self.question.more = wanted;
            self.ask(out);
            return Ok(false);
        }
        if let (true, Some(value)) = (self.without_timeout, self.timeout_value.take()) {
            let mut settings = self.state.settings.iter_mut();
            if let Some(setting) = settings.find(|s| s.name.as_ref() == b"statement_timeout") {
                setting.value = value;
            }
        }
        let here = self.state.surroundings();
        for (at, prepared) in self.state.prepared.iter_mut().enumerate() {
            let known = self.question.described.iter().find(|known| known.name == prepared.name);
            prepared.description = known.and_then(|known| known.description.clone());
            prepared.surroundings =
                known.and_then(|known| known.surroundings.clone()).or_else(|| here.clone());
            if prepared.description.is_none() && !prepared.is_changed() {
                message::put(out, b'D', |out| {
                    out.extend_from_slice(b"S");
                    message::put_text(out, &prepared.name);
                });
                message::put_sync(out);
                self.steps.push_back(Step::Describing(at));
            }
        }
        Ok(self.steps.is_empty())
    }

    /// The brief question was not answered as before.
    fn is_another(&self) -> bool {
        let brief = self.question.last.as_ref();
        brief.is_some_and(|last| self.error.is_some() || self.state.digest != last.digest)
    }

    /// Changes the question so that it may succeed. `false`: no idea how.
    fn mend(&mut self, error: &DialogueError) -> bool {
        let DialogueError::Refused { code, text, .. } = error else { return false };
        match code.as_str() {
            // Cancelled: by statement_timeout, or by a cancel request of the client's that came late.
            "57014" => {
                self.without_timeout = true;
                true
            }
            // A name that only some may read, or that the server does not take for one.
            _ if !self.question.names.is_empty() => {
                let before = self.question.names.len();
                self.question.names.retain(|name| !text.contains(name.as_str()));
                if self.question.names.len() == before {
                    self.question.names.clear();
                    block(&mut self.question.from_wire, Some(Obstacle::Setting));
                }
                true
            }
            _ => false,
        }
    }

    fn take(&mut self, message: &Message, out: &mut BytesMut) -> Result<bool, DialogueError> {
        let step = self.steps.front().cloned();
        match message.kind {
            b'D' => self.row(&message.body)?,
            b'E' if message::is_fatal(&message.body) => return Err(refused(message)),
            b'E' if step == Some(Step::Probing) && self.question.is_shielded() => {}
            b'E' => self.error = self.error.take().or_else(|| Some(refused(message))),
            b'N' => self.info(&message.body),
            b'A' | b'S' => {
                message::put(&mut self.aside, message.kind, |out| out.extend_from_slice(&message.body));
            }
            b't' | b'T' | b'n' if matches!(step, Some(Step::Describing(_))) => {
                message::put_description(&mut self.description, message);
            }
            b'Z' => return self.ready(message.body.first().copied().unwrap_or(0), out),
            b'1' | b'2' | b'3' | b'C' | b'I' | b's' | b't' | b'T' | b'n' => {}
            kind => return Err(unexpected(kind)),
        }
        Ok(false)
    }
}

/// A `text[]` literal; the names are letters, digits, `_`, `$` and dots.
fn array(names: &[&String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{{{}}}", quoted.join(","))
}

impl Dialogue for Capture {
    type Output = Captured<State>;

    fn open(&mut self, out: &mut BytesMut) {
        self.ask(out);
    }

    fn receive(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Captured<State>>, DialogueError> {
        while let Some(message) =
            message::take(input, MAX_ROW).map_err(|e| DialogueError::Protocol(e.into()))?
        {
            if self.take(&message, out)? {
                let (state, aside) = (std::mem::take(&mut self.state), std::mem::take(&mut self.aside));
                return Ok(Some(Captured { state, aside }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::postgres::introspection::More;
    use crate::engine::postgres::state::Setting;

    const PROCESS: u32 = 77;
    const USUAL: &[u8] = b"DateStyle=ISO,default_transaction_deferrable=off,work_mem=1";
    const UNUSUAL: &[u8] = b"DateStyle=ISO,default_transaction_deferrable=on,work_mem=1";

    fn question(last: Option<State>) -> Question {
        Question {
            login_user: Bytes::from_static(b"u"),
            superuser: false,
            standard_strings: true,
            major: 15,
            names: vec!["app.user".into(), "work_mem".into()],
            more: More::default(),
            from_wire: State::default(),
            described: Vec::new(),
            begun: false,
            again: digest::question(15),
            last,
            process: PROCESS,
        }
    }

    /// A row of one column more than its kind.
    fn row(kind: &[u8], value: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 2];
        for column in [kind, value] {
            body.extend(u32::try_from(column.len()).unwrap().to_be_bytes());
            body.extend(column);
        }
        body
    }

    fn known(value: &[u8]) -> State {
        let names = question(None).names;
        let own =
            |name| Setting { name: Bytes::from_static(name), value: Bytes::from_static(b"1"), own: true };
        State {
            settings: vec![own(b"work_mem")],
            digest: Some(Digest::of(&row(b"same", value), &names, PROCESS)),
            ..State::default()
        }
    }

    /// Answers as the server would: a row, or an error, then all `Sync`s.
    fn answer(capture: &mut Capture, first: (u8, &[u8]), syncs: usize) -> (Option<State>, String) {
        let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
        message::put(&mut input, first.0, |out| out.extend_from_slice(first.1));
        for _ in 0..syncs {
            message::put(&mut input, b'Z', |out| out.extend_from_slice(b"I"));
        }
        let captured = capture.receive(&mut input, &mut out).unwrap();
        (captured.map(|captured| captured.state), String::from_utf8_lossy(&out).into_owned())
    }

    fn asked(capture: &mut Capture) -> String {
        let mut out = BytesMut::new();
        capture.open(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_session_that_answers_as_before_is_what_it_was() {
        let last = known(USUAL);
        let mut capture = Capture::new(question(Some(last.clone())), 1);
        let text = asked(&mut capture);
        assert!(text.contains("'same'") && !text.contains("show_all") && !text.contains("BEGIN ISOLATION"));
        assert_eq!(answer(&mut capture, (b'D', &row(b"same", USUAL)), 2), (Some(last), String::new()));
    }

    #[test]
    fn one_that_does_not_is_asked_for_everything() {
        let error = b"SERROR\0C42501\0Mdenied\0\0".to_vec();
        for first in [(b'D', row(b"same", b"y")), (b'E', error)] {
            let mut capture = Capture::new(question(Some(known(USUAL))), 1);
            asked(&mut capture);
            let (state, text) = answer(&mut capture, (first.0, &first.1), 2);
            assert!(state.is_none() && text.contains("show_all") && text.contains("BEGIN ISOLATION"));
            // What was found by the brief question does not stay.
            let (state, _) = answer(&mut capture, (b'D', &row(b"lstn", b"channel")), 3);
            let state = state.unwrap();
            assert_eq!((state.settings, state.channels), (Vec::new(), vec![Bytes::from_static(b"channel")]));
        }
    }

    #[test]
    fn the_brief_question_of_an_unusual_session_is_shielded() {
        let mut capture = Capture::new(question(Some(known(UNUSUAL))), 1);
        assert!(asked(&mut capture).contains("BEGIN ISOLATION"));
        assert!(answer(&mut capture, (b'D', &row(b"same", UNUSUAL)), 3).0.is_some());
    }

    #[test]
    fn no_answer_of_another_backend_is_known() {
        let digest = Digest::of(b"row", &[], PROCESS);
        assert!(digest.is_of(PROCESS) && !digest.is_of(PROCESS + 1));
        assert_ne!(digest, Digest::of(b"row", &["app.user".into()], PROCESS));
        assert_ne!(digest, Digest::of(b"rows", &[], PROCESS));
    }
}

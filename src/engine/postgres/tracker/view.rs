//! What a client believes of the reported parameters. Some fifteen names and values take two kilobytes, and most clients of an
//! application were told the same: they share one copy until one of them is told something else.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

type Parameters = Vec<(String, Bytes)>;

/// So many different ones are remembered; those of one application differ in its name, its user and little else.
const REMEMBERED: usize = 16;

/// The latest that sessions began with.
static LATEST: Mutex<Vec<Weak<Parameters>>> = Mutex::new(Vec::new());

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct View(Arc<Parameters>);

impl View {
    /// Of a session that was told these.
    pub(super) fn of(parameters: Parameters) -> View {
        let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
        latest.retain(|view| view.strong_count() > 0);
        let known = latest.iter().filter_map(Weak::upgrade).find(|view| **view == parameters);
        let view = known.unwrap_or_else(|| Arc::new(parameters));
        // To the front: clients that each have another name are not to displace those that many share.
        latest.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&view)));
        latest.truncate(REMEMBERED - 1);
        latest.insert(0, Arc::downgrade(&view));
        View(view)
    }

    pub(super) fn all(&self) -> &[(String, Bytes)] {
        &self.0
    }

    /// The value of a parameter; empty if it was never told.
    pub(super) fn value(&self, name: &str) -> &[u8] {
        self.0.iter().find(|(n, _)| n == name).map_or(&[], |(_, value)| value)
    }

    /// It is told another value.
    pub(super) fn learn(&mut self, name: &str, value: Bytes) {
        if self.0.iter().any(|(n, v)| n == name && *v == value) {
            return;
        }
        let own = Arc::make_mut(&mut self.0);
        match own.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => own.push((name.to_owned(), value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(application: &str) -> View {
        let value = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        View::of(vec![("TimeZone".into(), value("UTC")), ("application_name".into(), value(application))])
    }

    #[test]
    fn who_was_told_the_same_shares_it_until_it_changes() {
        let (first, mut second) = (told("view test"), told("view test"));
        assert!(Arc::ptr_eq(&first.0, &second.0));
        second.learn("TimeZone", Bytes::from_static(b"UTC"));
        assert!(Arc::ptr_eq(&first.0, &second.0));
        second.learn("TimeZone", Bytes::from_static(b"Asia/Tokyo"));
        second.learn("new", Bytes::from_static(b"x"));
        assert_eq!((first.value("TimeZone"), second.value("TimeZone")), (&b"UTC"[..], &b"Asia/Tokyo"[..]));
        assert_eq!((first.value("new"), second.value("new")), (&b""[..], &b"x"[..]));

        // In the same test, because the memory is the process's. The one that is told again and again stays.
        let others: Vec<View> = (0..4 * REMEMBERED)
            .map(|number| {
                assert!(Arc::ptr_eq(&told("view test").0, &first.0));
                told(&number.to_string())
            })
            .collect();
        assert!(LATEST.lock().unwrap().len() <= REMEMBERED);
        let names = others.iter().map(|view| view.value("application_name").to_vec());
        assert!(names.eq((0..4 * REMEMBERED).map(|number| number.to_string().into_bytes())));
    }
}

//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The caps of a listener, and who is there.
#[derive(Debug)]
pub struct Caps {
    max: AtomicUsize,
    max_per_address: AtomicUsize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Which cap is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// `max_connections`
    All,
    /// `max_connections_per_address`
    Address,
}

/// The place of one connection; free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    caps: Arc<Caps>,
}

/// What counts for an address; free again when this is dropped.
#[derive(Debug)]
pub struct AddressSlot {
    caps: Arc<Caps>,
    address: IpAddr,
}

impl Caps {
    /// At most `max` connections, and `max_per_address` of one address.
    pub fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        let (max, max_per_address) = (AtomicUsize::new(max), AtomicUsize::new(max_per_address));
        Arc::new(Self { max, max_per_address, open: Mutex::default() })
    }

    /// Other caps from here on; nobody who is there is sent away.
    pub fn change(&self, max: usize, max_per_address: usize) {
        self.max.store(max, Ordering::Relaxed);
        self.max_per_address.store(max_per_address, Ordering::Relaxed);
    }

    /// Takes a place for a connection.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Place, Full> {
        let mut open = self.open();
        if open.all >= self.max.load(Ordering::Relaxed) {
            return Err(Full::All);
        }
        open.all += 1;
        Ok(Place { caps: Arc::clone(self) })
    }

    /// Counts a connection, or a request, for the address that it is from.
    ///
    /// # Errors
    /// Where the address has as many as it may.
    pub fn slot(self: &Arc<Self>, peer: IpAddr) -> Result<AddressSlot, Full> {
        let address = holder(peer);
        let mut open = self.open();
        let here = open.by_address.get(&address).copied().unwrap_or_default();
        if here >= self.max_per_address.load(Ordering::Relaxed) {
            return Err(Full::Address);
        }
        open.by_address.insert(address, here + 1);
        Ok(AddressSlot { caps: Arc::clone(self), address })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.caps.open().all -= 1;
    }
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut open = self.caps.open();
        if let Some(here) = open.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: of IPv6 the first 64 bits, as whoever has one address has all of its network.
fn holder(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn places_are_bounded_in_all_and_for_an_address_and_come_back() {
        let caps = Caps::new(3, 2);
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(address);
        let first = (caps.enter().expect("room"), caps.slot(a).expect("room"));
        let _second = (caps.enter().expect("room"), caps.slot(a).expect("room"));
        assert_eq!(caps.slot(a).err(), Some(Full::Address));
        let third = (caps.enter().expect("room"), caps.slot(b).expect("room"));
        assert_eq!(caps.enter().err(), Some(Full::All));
        drop((first, third));
        let _again = (caps.enter().expect("room"), caps.slot(a).expect("room"));
        caps.change(2, 2);
        assert_eq!(caps.enter().err(), Some(Full::All));
    }

    #[test]
    fn an_address_that_left_or_was_refused_is_forgotten() {
        let caps = Caps::new(9, 1);
        drop((caps.enter(), caps.slot(address("192.0.2.1"))));
        caps.change(9, 0);
        assert_eq!(caps.slot(address("192.0.2.2")).err(), Some(Full::Address));
        let open = caps.open.lock().expect("nobody panicked");
        assert_eq!((open.all, open.by_address.len()), (0, 0));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let caps = Caps::new(9, 1);
        let _first = caps.slot(address("2001:db8::1")).expect("room");
        assert_eq!(caps.slot(address("2001:db8::ffff:1")).err(), Some(Full::Address));
        let _other = caps.slot(address("2001:db8:0:1::1")).expect("room");
    }
}

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream},
    thread,
};

use super::*;

const NODE: u64 = 1;

fn link() -> Link {
    Link {
        from: HostId::CLIENTS,
        to: HostId::node(NODE).unwrap(),
    }
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A node that sends back what it gets, behind a proxy.
fn echo(proxy: &Proxy) -> SocketAddr {
    let listener = StdListener::bind(any_port()).unwrap();
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    proxy
        .expose(HostId::node(NODE).unwrap(), any_port(), target)
        .unwrap()
}

fn ask(stream: &mut StdStream) -> io::Result<[u8; 4]> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[test]
fn bytes_pass_both_ways_and_are_counted() {
    let proxy = Proxy::start(1).unwrap();
    let mut stream = StdStream::connect(echo(&proxy)).unwrap();
    assert_eq!(&ask(&mut stream).unwrap(), b"ping");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the end passes too");
    let stats = proxy.stats();
    assert_eq!(stats[&link()].delivered_bytes, 4);
    assert_eq!(stats[&link().reverse()].delivered_bytes, 4);
}

#[test]
fn a_cut_of_either_direction_holds_bytes_until_it_heals() {
    for cut in [link(), link().reverse()] {
        let proxy = Proxy::start(1).unwrap();
        let address = echo(&proxy);
        let mut stream = StdStream::connect(address).unwrap();
        ask(&mut stream).unwrap();
        proxy.set(
            cut,
            LinkRules {
                cut: true,
                ..LinkRules::default()
            },
        );
        stream.write_all(b"held").unwrap();
        while proxy.stats()[&cut].cut == 0 {
            thread::yield_now();
        }
        let forward = proxy.stats()[&link()].delivered_bytes;
        assert_eq!(forward, if cut == link() { 4 } else { 8 }, "the cut is one-way");
        stream.set_nonblocking(true).unwrap();
        assert_eq!(
            stream.read(&mut [0; 4]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        stream.set_nonblocking(false).unwrap();
        proxy.heal();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"held");
    }
}

#[test]
fn loss_breaks_the_connection() {
    let proxy = Proxy::start(1).unwrap();
    let mut stream = StdStream::connect(echo(&proxy)).unwrap();
    ask(&mut stream).unwrap();
    proxy.set(
        link(),
        LinkRules {
            loss: 1.0,
            ..LinkRules::default()
        },
    );
    assert_eq!(
        ask(&mut stream).unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(proxy.stats()[&link()].lost, 1);
}

#[test]
fn delay_is_added_in_each_direction() {
    let proxy = Proxy::start(1).unwrap();
    let mut stream = StdStream::connect(echo(&proxy)).unwrap();
    let delay = Duration::from_millis(20);
    proxy.set(
        link(),
        LinkRules {
            delay,
            ..LinkRules::default()
        },
    );
    proxy.set(
        link().reverse(),
        LinkRules {
            delay: delay * 2,
            ..LinkRules::default()
        },
    );
    let started = Instant::now();
    ask(&mut stream).unwrap();
    assert!(started.elapsed() >= delay * 3);
}

#[test]
fn a_named_process_has_links_of_its_own() {
    let proxy = Proxy::start(1).unwrap();
    let address = echo(&proxy);
    let us = HostId::node(2).unwrap();
    proxy.set_process(us, Some(std::process::id()));
    ask(&mut StdStream::connect(address).unwrap()).unwrap();
    let from_us = Link { from: us, ..link() };
    assert_eq!(
        proxy.stats().keys().copied().collect::<Vec<_>>(),
        [from_us.reverse(), from_us]
    );
    proxy.set_process(us, None);
    ask(&mut StdStream::connect(address).unwrap()).unwrap();
    assert_eq!(proxy.stats()[&link()].delivered_bytes, 4);
}

#[test]
fn a_node_that_is_down_resets_the_connection() {
    let proxy = Proxy::start(1).unwrap();
    let nobody = StdListener::bind(any_port()).unwrap().local_addr().unwrap();
    let address = proxy
        .expose(HostId::node(NODE).unwrap(), any_port(), nobody)
        .unwrap();
    let mut stream = StdStream::connect(address).unwrap();
    assert!(ask(&mut stream).is_err());
}

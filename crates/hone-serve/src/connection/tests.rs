//! A connection over loopback, beside what its client does.

use super::*;
use std::future::poll_fn;

/// A connection with this limit, and its client.
async fn connected(stall_limit: Duration) -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (connection, _) = Connections::of(listener, stall_limit).accept().await;
    (connection, client)
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

#[test]
fn what_is_written_goes_out_at_once() {
    block_on(async {
        let (connection, client) = connected(Duration::from_secs(60)).await;
        assert!(connection.stream.nodelay().unwrap() && !client.nodelay().unwrap());
    });
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    block_on(async {
        let (mut connection, _client) = connected(Duration::from_millis(1)).await;
        let bytes = vec![0; 1 << 20];
        // Until nothing more fits between the two.
        let error = loop {
            if let Err(error) = poll_fn(|cx| Pin::new(&mut connection).poll_write(cx, &bytes)).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    });
}

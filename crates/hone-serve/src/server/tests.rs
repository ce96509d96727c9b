//! What the server does to a connection before it reads.

use super::*;

#[test]
fn what_is_written_goes_out_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let bound = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(bound.local_addr().unwrap()).await.unwrap();
        let (stream, _) = without_delay(bound).accept().await;
        assert!(stream.nodelay().unwrap() && !client.nodelay().unwrap());
    });
}

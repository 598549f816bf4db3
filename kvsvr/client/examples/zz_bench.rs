//! temp
#![allow(warnings, clippy::all)]
use std::{sync::Arc, time::Duration};
use bytes::Bytes;
use kvsvr_client::{grpc::GrpcTransport, mux::NodeStream};
use kvsvr_proto::v1::{self, *, kv_server::*};
use tonic::{Request, Response, Status, Streaming};
use tokio_stream::wrappers::ReceiverStream;
use tokio::sync::mpsc;
struct Echo;
#[tonic::async_trait]
impl Kv for Echo {
    async fn put(&self, r: Request<PutRequest>) -> Result<Response<PutResponse>, Status> { todo!() }
    async fn get(&self, r: Request<GetRequest>) -> Result<Response<GetResponse>, Status> { todo!() }
    async fn range(&self, r: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> { todo!() }
    async fn delete(&self, r: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> { todo!() }
    async fn txn(&self, r: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> { todo!() }
    async fn execute(&self, r: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> { todo!() }
    type ExecStream = ReceiverStream<Result<ExecReplyFrame, Status>>;
    async fn exec(&self, request: Request<Streaming<ExecFrame>>) -> Result<Response<Self::ExecStream>, Status> {
        let mut input = request.into_inner();
        let (tx, mut rx) = mpsc::unbounded_channel::<ExecReply>();
        let (otx, orx) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(f)) = input.message().await {
                for r in f.requests {
                    let _ = tx.send(ExecReply { id: r.id, map_epoch: 1, result: Some(exec_reply::Result::Outcome(Bytes::from_static(b"\x08\x01\x52\x02\x08\x01"))) });
                }
            }
        });
        tokio::spawn(async move {
            let mut buf = Vec::new();
            loop {
                if rx.recv_many(&mut buf, 512).await == 0 { return; }
                if otx.send(Ok(ExecReplyFrame { replies: buf.drain(..).collect() })).await.is_err() { return; }
            }
        });
        Ok(Response::new(ReceiverStream::new(orx)))
    }
}
#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    if a[1] == "serve" {
        tonic::transport::Server::builder().initial_stream_window_size(4<<20).initial_connection_window_size(8<<20).add_service(KvServer::new(Echo)).serve(a[2].parse().unwrap()).await.unwrap();
        return;
    }
    let clients: usize = a[3].parse().unwrap();
    let stream = NodeStream::new(Arc::new(GrpcTransport::new()), &a[2][..]);
    let end = tokio::time::Instant::now() + Duration::from_secs(3);
    let val = Bytes::from(vec![7u8; 300]);
    let ts: Vec<_> = (0..clients).map(|_| { let stream = stream.clone(); let val = val.clone(); tokio::spawn(async move {
        let mut n = 0u64; let mut lat = Vec::new();
        loop {
            let now = tokio::time::Instant::now();
            if now > end { return (n, lat) }
            let r = ExecRequest { op: Some(exec_request::Op::Command(val.clone())), ..Default::default() };
            stream.call(r, now + Duration::from_secs(5)).await.unwrap();
            if n % 16 == 0 { lat.push(now.elapsed().as_micros() as u64); }
            n += 1;
        }
    })}).collect();
    let mut total = 0; let mut lat = Vec::new();
    for t in ts { let (n, l) = t.await.unwrap(); total += n; lat.extend(l); }
    lat.sort();
    println!("clients={clients} ops/s={} p50={}us p99={}us", total / 3, lat[lat.len()/2], lat[lat.len()*99/100]);
}

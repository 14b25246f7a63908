//! The sink's promises, held against real servers.

mod support {
    pub mod mariadb;
}

use support::mariadb::MariaDb;

#[tokio::test]
async fn a_killed_server_keeps_what_it_committed() {
    let mut db = MariaDb::start().await;
    db.run(&["CREATE TABLE t (n INT PRIMARY KEY)", "INSERT INTO t VALUES (7)"]).await;
    db.kill();
    db.restart().await;
    db.pause();
    db.resume();
    assert_eq!(db.row::<u32>("SELECT n FROM t").await, 7);
}

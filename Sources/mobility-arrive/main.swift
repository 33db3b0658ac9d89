// What systemd starts in place of a unit's ExecStart= while a service arrives: it holds the unit's sandbox (its
// namespaces, credentials, filters, output streams) open until mobilityd has taken from it what the restored
// processes need. It decides nothing, reads nothing and announces nothing; SIGTERM ends it with status 0.
import Glibc

var all = sigset_t()
sigfillset(&all)
// Other signals stay pending: a reload that reaches the unit meanwhile must not end its arrival.
sigprocmask(SIG_BLOCK, &all, nil)
var end = sigset_t()
sigemptyset(&end)
sigaddset(&end, SIGTERM)
var received: Int32 = 0
// sigwait(3) waits in the kernel and asks for no descriptor, which a sandbox could deny.
while sigwait(&end, &received) != 0 {}
exit(0)

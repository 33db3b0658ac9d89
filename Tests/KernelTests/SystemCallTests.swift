@testable import Kernel
import Testing

@Suite(.serialized) struct SystemCallTests {
    @Test func failureNamesCallObjectAndReason() {
        #expect(throws: KernelError(call: "open", object: "/nonexistent/x", code: .noEntry)) {
            _ = try Files.read("/nonexistent/x")
        }
        #expect(
            KernelError(call: "open", object: "/x", code: .noEntry).description
                == "open /x: ENOENT (No such file or directory)")
    }

    @Test func seamFailsTheChosenOccurrence() throws {
        FaultSeam.arm(.init(call: "readlink", occurrence: 2, code: .noMemory))
        defer { FaultSeam.arm(nil) }
        _ = try Files.readLink("/proc/self/exe")
        #expect(throws: KernelError(call: "readlink", object: "/proc/self/exe", code: .noMemory)) {
            _ = try Files.readLink("/proc/self/exe")
        }
        _ = try Files.readLink("/proc/self/exe")
    }

    @Test func `only unacknowledged connections without a descriptor count as closing`() {
        let header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
        func line(_ state: String, inode: Int, local: String = "0B0A0A0A:0050") -> String {
            "   0: \(local) 640A0A0A:D431 \(state) 00000400:00000000 01:00000014 00000000     0        0 \(inode) 1 0"
        }
        let address: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 10, 10, 11]
        func count(_ lines: String...) -> Int {
            TCPTable.closing(
                of: [address],
                among: TCPTable.rows(
                    of: ([header] + lines).joined(separator: "\n"), in: [1, 4, 5, 6, 9, 10, 11]))
        }
        #expect(count(line("04", inode: 0), line("09", inode: 0), line("0B", inode: 0)) == 3)
        #expect(count(line("04", inode: 77), line("01", inode: 0), line("06", inode: 0), line("05", inode: 0)) == 0)
        #expect(count(line("04", inode: 0, local: "0C0A0A0A:0050")) == 0)
        let mapped = "0000000000000000FFFF00000B0A0A0A:0050"
        #expect(count(line("04", inode: 0, local: mapped)) == 1)
    }

    @Test func sockstatTellsOfOrphans() {
        let text = "sockets: used 9\nTCP: inuse 5 orphan 3 tw 7 alloc 6 mem 1\nUDP: inuse 0 mem 0\n"
        #expect(TCPTable.orphans(in: text) == 3)
        #expect(TCPTable.orphans(in: "TCP: inuse 5\n") == nil)
    }
}

import Glibc
import Testing

@testable import Lab

/// The short form of `make faults`, docs/testing.md.
struct FaultTests {
    @Test func `A daemon that is killed at any turn of the protocol leaves the service running once`() throws {
        if skippedWithoutRoot() { return }
        let result = try Subprocess.run(
            ["\(Product.releaseDirectory)/faults", "--quick", "--name", "faults-\(getpid())"], allowFailure: true,
            timeout: .seconds(300))
        #expect(result.succeeded, "\(result.output)\(result.errorOutput)")
    }
}

import Kernel

/// Why an address could not be looked after; each description is a whole sentence for the journal.
public enum AddressingError: Error, Sendable, CustomStringConvertible {
    /// A system call failed.
    case kernel(KernelError)
    /// A request to the kernel's routing tables failed, rtnetlink(7).
    case netlink(operation: String, object: String, why: String)
    /// No interface's subnet contains the address; `seen` lists each subnet with its interface.
    case noSubnet(address: VirtualAddress, seen: [String])
    /// Another host answered for the address.
    case conflict(address: VirtualAddress, interface: String, holder: String)
    /// A BPF object could not be loaded or attached; `log` is the verifier's or libbpf's text.
    case program(step: String, object: String, why: String, log: String)
    /// A frame that is no packet for the address was offered for injection.
    case badFrame(address: VirtualAddress, why: String)
    /// The queue of this address was not prepared.
    case notPrepared(VirtualAddress)
    /// Held packets did not all come through in time; the number of frames still missing.
    case releaseIncomplete(address: VirtualAddress, missing: Int)

    public var description: String {
        switch self {
        case .kernel(let error): "\(error)"
        case .netlink(let operation, let object, let why): "cannot \(operation) \(object): \(why)"
        case .noSubnet(let address, let seen):
            "no interface has a subnet that contains \(address.text); subnets seen: "
                + (seen.isEmpty ? "none" : seen.joined(separator: ", "))
                + ". Name one with Interface= or configure the host's own address in the subnet."
        case .conflict(let address, let interface, let holder):
            "\(address.text) is in use on \(interface): \(holder) answered for it. "
                + "Release it there, or choose another VirtualAddress=."
        case .program(let step, let object, let why, let log):
            "cannot \(step) \(object): \(why)" + (log.isEmpty ? "" : "\n\(log)")
        case .badFrame(let address, let why): "frame refused for \(address.text): \(why)"
        case .notPrepared(let address): "the hold queue of \(address.text) is not prepared on this host"
        case .releaseIncomplete(let address, let missing):
            "\(missing) held packets for \(address.text) did not reach the network stack; the peers will repeat them"
        }
    }
}

/// Carries out `body` with its kernel error in this room's terms.
func kernel<Value: ~Copyable>(_ body: () throws(KernelError) -> Value) throws(AddressingError) -> Value {
    do throws(KernelError) { return try body() } catch { throw .kernel(error) }
}

import Kernel
import KernelCapture
import ProcessImage
import Resources

/// What the last act of an arrival needs, as bytes that outlive the daemon: should it end between the commit and that
/// act, the one that follows performs it. The connections have everything else already; what the service had written
/// and the kernel not yet sent is here only.
public struct Awakening: Codable, Sendable {
    private struct Home: Codable {
        var description: Int32
        var pid: Int32
        var number: Int32
    }

    /// Descriptions only, and of these only such as have a last act.
    private var image: ServiceImage
    private var homes: [Home] = []

    init(_ full: ServiceImage, homes places: [Int32: (pid: Int32, number: Int32)]) {
        image = ServiceImage(unit: full.unit)
        for (index, description) in full.descriptions.enumerated() {
            let isNeeded = DescriptorKinds.named(description.kind)?.isActivated ?? false
            image.descriptions.append(
                isNeeded ? description : DescriptionImage(kind: "", statusFlags: 0, payload: Bytes([])))
            guard isNeeded, let place = places[Int32(index)] else { continue }
            homes.append(Home(description: Int32(index), pid: place.pid, number: place.number))
        }
    }

    public func encoded() throws(RestoreError) -> [UInt8] {
        do { return try WireEncoder.encode(self) } catch { throw .image("cannot encode the connections: \(error)") }
    }

    public static func decode(_ bytes: [UInt8]) throws(RestoreError) -> Awakening {
        do { return try WireDecoder.decode(Awakening.self, from: bytes) } catch {
            throw .image("cannot decode the connections: \(error)")
        }
    }

    /// Performs it for each connection for which that has not been done; what goes wrong, one line each.
    public func perform() -> [String] {
        let context = Context(image: image, places: homes.map { ($0.description, $0.pid, $0.number) })
        return homes.compactMap { home in
            let description = image.descriptions[Int(home.description)]
            do throws(ResourceError) {
                try DescriptorKinds.named(description.kind)?
                    .activate(description, index: home.description, context: context)
                return nil
            } catch {
                return "\(error)"
            }
        }
    }

    /// Reaches the descriptors in the processes that hold them now.
    private final class Context: RestoreContext {
        let image: ServiceImage
        let parked = ParkedDescriptors()
        let congestion: CongestionModule? = nil
        let frozenNanoseconds: Int64 = 0
        private let places: [(description: Int32, pid: Int32, number: Int32)]
        var unit: String { image.unit }

        init(image: ServiceImage, places: [(description: Int32, pid: Int32, number: Int32)]) {
            self.image = image
            self.places = places
        }

        func take(description index: Int32) throws(KernelError) -> FileDescriptor {
            guard let place = places.first(where: { $0.description == index }) else { throw Self.missing }
            return try Pidfd(pid: place.pid).take(place.number)
        }

        private static let missing = KernelError(call: "take", object: "awakening", code: .badDescriptor)

        func embryo(_ pid: Int32) -> (any EmbryoPort)? { nil }
        func take(sharedMemory index: Int32) throws(KernelError) -> FileDescriptor { throw Self.missing }
        func takeArrival(_ number: Int32) throws(KernelError) -> FileDescriptor { throw Self.missing }
        func credentials(ofProcess pid: Int32) -> CredentialsImage? { nil }
    }
}

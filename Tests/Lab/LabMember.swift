import Kernel

/// One machine of the lab as the plan describes it.
struct LabMember: Sendable {
    enum Kind: String, Sendable {
        /// A systemd in namespaces of its own.
        case host
        /// A plain network namespace.
        case client
    }

    let name: String
    let kind: Kind
    /// Last octet in 10.10.10.0/24, and the last group in fd10:10:10::/64.
    let number: Int
    /// 0, 1, 2, …: gives each host its clock offsets and its stripe of pids.
    let index: Int

    var address: String { "10.10.10.\(number)" }
    var address6: String { "fd10:10:10::\(number)" }
    /// Locally administered, and readable in a packet dump.
    var hardwareAddress: String {
        let octet = String(number, radix: 16)
        return "02:10:10:10:00:" + (octet.count < 2 ? "0" + octet : octet)
    }
    /// How far the host's monotonic and boottime clocks run ahead of the machine's, in seconds.
    var clockOffset: Int { (index + 1) * 1000 }
    /// Where mobility-pids.service lets pids begin.
    var pidRangeStart: Int { index * 20_000 + 10_000 }

    /// Hosts a, b, c, d… get .2, .3, .4, .5…; other names the next free number; clients .100, .101, ….
    static func plan(hosts: [String], clients: [String]) throws -> [LabMember] {
        let names = hosts + clients
        for name in names {
            guard !name.isEmpty, name.count <= 12, name != "switch", name != "net", name != "out",
                name.allSatisfy({ $0.isASCII && ($0.isLowercase || $0.isNumber || $0 == "-") })
            else { throw LabError("a member cannot be called `\(name)`: up to 12 of a-z, 0-9 and -") }
        }
        guard Set(names).count == names.count else { throw LabError("two members have one name: \(names)") }
        guard !names.isEmpty, clients.count < 100, hosts.count < 50 else { throw LabError("too few or many members") }
        var members: [LabMember] = []
        var free = 28  // behind a…z
        for (index, name) in hosts.enumerated() {
            var number = free
            if name.count == 1, let letter = name.utf8.first, (97...122).contains(letter) {
                number = Int(letter) - 97 + 2
            } else {
                free += 1
            }
            members.append(LabMember(name: name, kind: .host, number: number, index: index))
        }
        for (index, name) in clients.enumerated() {
            members.append(LabMember(name: name, kind: .client, number: 100 + index, index: index))
        }
        return members
    }

    var line: String { "\(kind.rawValue) \(name) \(number) \(index)" }

    init?(line: String) {
        let fields = line.words
        guard fields.count == 4, let kind = Kind(rawValue: fields[0]), let number = Int(fields[2]),
            let index = Int(fields[3])
        else { return nil }
        self.init(name: fields[1], kind: kind, number: number, index: index)
    }

    init(name: String, kind: Kind, number: Int, index: Int) {
        self.name = name
        self.kind = kind
        self.number = number
        self.index = index
    }
}
